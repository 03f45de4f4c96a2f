// What the page asks of its server. Every error has the one line that the server says.

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("the server does not answer; check in its terminal whether it still runs");
  }
  const kind = answer.headers.get("content-type") ?? "";
  const body = kind.includes("json") ? await answer.json() : {};
  if (!answer.ok) {
    const said = body.error ?? (kind.includes("text/plain") ? (await answer.text()).trim() : "");
    throw new Error(said || `the server, or a proxy in front of it, answered ${answer.status}; load the page again`);
  }
  return body;
}

const json = (body) => ({ method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });

export const page = () => ask("api/page");

export const upload = (file, role) =>
  ask(`api/uploads?role=${role}&name=${encodeURIComponent(file.name)}`, { method: "POST", body: file });
export const example = (name) => ask(`api/examples/${name}`, { method: "POST" });
export const losses = (id) => ask(`api/results/${id}/losses`);
export const start = (run) => ask("api/runs", json(run));
export const proceed = (result, size) => ask(`api/results/${result}/continue`, json({ size }));
export const stop = () => ask("api/runs", { method: "DELETE" });

// The first picture of a run, or null where there is none.
export async function first(run) {
  const answer = await fetch("api/first", json(run)).catch(() => null);
  return answer?.status === 200 ? answer.blob() : null;
}
export const swatchUrl = (name) => `api/examples/${name}`;

export const forecast = (run) => ask("api/forecast", json(run));

export const largeUrl = (id) => `api/uploads/${id}/large`;
export const uploadUrl = (id) => `api/uploads/${id}`;
export const previewUrl = (number, count) => `api/preview?of=${number}.${count}`;
export const smallUrl = (id) => `api/results/${id}/small`;
export const imageUrl = (id) => `api/results/${id}/image`;
export const fileUrl = (id, format) => `api/results/${id}/file?format=${format}`;

// Calls `heard` with each event, `silent` when the server does not answer a second time, and `back` when it does again.
export function listen(heard, { silent, back }) {
  const source = new EventSource("api/events");
  let failures = 0;
  source.onmessage = (event) => heard(JSON.parse(event.data));
  source.onopen = () => {
    if (failures > 1) back();
    failures = 0;
  };
  source.onerror = () => {
    failures++;
    if (failures === 2) silent();
  };
}
