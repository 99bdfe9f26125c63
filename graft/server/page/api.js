// Requests of the server; an error is the line that it gives.

async function ask(path, body) {
  const options = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("the server does not answer");
  }
  const value = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(value.error?.message ?? `the server answered ${response.status}`);
  return value;
}

export const listSkills = () => ask("skills");

export const classify = (texts, skills, task) => ask("classify", { texts, skills, ...(task && { task }) });

export async function write(skill, prompt, settings) {
  const { chat, ...rest } = settings;
  const value = chat
    ? await ask("v1/chat/completions", { model: skill, messages: [{ role: "user", content: prompt }], ...rest })
    : await ask("v1/completions", { model: skill, prompt, ...rest });
  const [choice] = value.choices;
  return { text: chat ? choice.message.content : choice.text, finished: choice.finish_reason };
}
