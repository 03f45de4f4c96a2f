// What the page asks of its server. Every error has the one line that the server says.

let visit = null;

async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("the server does not answer; it may have been ended in its terminal");
  }
  const body = answer.headers.get("content-type")?.includes("json") ? await answer.json() : {};
  if (!answer.ok) throw Object.assign(new Error(body.error ?? `the server answered ${answer.status}`), { status: answer.status });
  return body;
}

const json = (body) => ({ method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
const here = (rest) => `/api/visits/${visit}${rest}`;

export const page = () => ask("/api/page");

// Goes on with this tab's visit, or begins one; returns whether it goes on.
export async function enter() {
  visit = sessionStorage.getItem("visit");
  if (visit) {
    try {
      await ask(here(""));
      return true;
    } catch (error) {
      if (error.status !== 410) throw error;
    }
  }
  visit = (await ask("/api/visits", { method: "POST" })).visit;
  sessionStorage.setItem("visit", visit);
  return false;
}

export const upload = (file, role) =>
  ask(here(`/uploads?role=${role}&name=${encodeURIComponent(file.name)}`), { method: "POST", body: file });
export const example = (name) => ask(here(`/examples/${name}`), { method: "POST" });
export const losses = (id) => ask(here(`/results/${id}/losses`));
export const start = (run) => ask(here("/runs"), json(run));
export const proceed = (result, size) => ask(here(`/results/${result}/continue`), json({ size }));
export const stop = () => ask(here("/runs"), { method: "DELETE" });

export const uploadUrl = (id) => here(`/uploads/${id}`);
export const previewUrl = (number, count) => here(`/preview?of=${number}.${count}`);
export const smallUrl = (id) => here(`/results/${id}/small`);
export const imageUrl = (id) => here(`/results/${id}/image`);
export const fileUrl = (id, format) => here(`/results/${id}/file?format=${format}`);

// Calls `heard` with each event, `lost` when the visit is gone for good, `silent` when the server does not answer a
// second time, and `back` when it does again.
export function listen(heard, { lost, silent, back }) {
  const source = new EventSource(here("/events"));
  let failures = 0;
  source.onmessage = (event) => heard(JSON.parse(event.data));
  source.onopen = () => {
    if (failures > 1) back();
    failures = 0;
  };
  source.onerror = () => {
    failures++;
    if (source.readyState === EventSource.CLOSED) lost();
    else if (failures === 2) silent();
  };
}
