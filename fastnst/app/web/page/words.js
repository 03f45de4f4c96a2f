// Numbers and states as a person reads them.

export function clock(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const minutes = Math.floor(whole / 60);
  if (minutes < 60) return `${minutes}:${String(whole % 60).padStart(2, "0")}`;
  return `${Math.floor(minutes / 60)}:${String(minutes % 60).padStart(2, "0")} h`;
}

export const loss = (value) => (value == null ? "–" : Number(value.toPrecision(4)).toString());

export const sides = ({ width, height }) => `${width} × ${height}`;

// The lines under the bar: of a run that goes on, or of a result.
export function ofRun(run) {
  if (run.state !== "running") return null;
  if (run.iteration === undefined) return [run.stopping ? "Stopping …" : "Starting …", "Reading the pictures and the style."];
  const left = run.left === null ? "" : ` · about ${clock(run.left)} left`;
  const first = run.stopping ? "Stopping …" : `${Math.floor(run.done * 100)} %${left}`;
  const total = run.points?.at(-1)?.[2];
  if (run.frames) return [first, `${sides(run)} px · frame ${run.iteration} of ${run.iterations} · ${clock(run.seconds)}`];
  const scales = run.scales.length > 1 ? `scale ${run.scales.indexOf(run.scale) + 1} of ${run.scales.length}, ` : "";
  return [first, `${scales}${sides(run)} px · iteration ${run.iteration} of ${run.iterations} · ${clock(run.seconds)}${total === undefined ? "" : ` · loss ${loss(total)}`}`];
}

export function ofResult(result, page) {
  const how = { interrupted: "stopped", time: "stopped by the time limit", diverged: "diverged" }[result.stopped];
  const first = `Result ${result.id} · ${sides(result)} px${how ? ` · ${how}` : ""}`;
  if (result.frames) return [first, [`${result.frames} frames`, clock(result.seconds), ...parameters(result, page)].join(" · ")];
  return [first, [`${result.iterations} iterations`, clock(result.seconds), `loss ${loss(result.total)}`, ...parameters(result, page)].join(" · ")];
}

// What was not as the preset has it.
export function parameters(result, page) {
  const labels = new Map(page.controls.map(({ name, label }) => [name, label[0].toLowerCase() + label.slice(1)]));
  const said = Object.entries(result.form).map(([name, value]) => `${labels.get(name) ?? name} ${value}`);
  if (result.begins !== "content") said.push(`from ${/^\d/.test(result.begins) ? `result ${result.begins}` : result.begins}`);
  return said;
}
