// The page: pictures and controls in, a run watched, results out.

import * as api from "./api.js";
import { Brush } from "./brush.js";
import { Chart } from "./chart.js";
import { Controls } from "./controls.js";
import { element } from "./element.js";
import { History } from "./history.js";
import { Palette } from "./palette.js";
import { Slot } from "./slots.js";
import { Stage } from "./stage.js";
import { clock, ofResult, ofRun } from "./words.js";

const find = (id) => document.getElementById(id);
const alertBox = find("alert");

function complain(message) {
  alertBox.querySelector("p").textContent = message.charAt(0).toUpperCase() + message.slice(1);
  alertBox.hidden = false;
}

let calms = 0;
function calm() {
  calms++;
  alertBox.hidden = true;
}

// Does what may fail; what the server says is shown, unless something changed in the meantime.
async function attempt(act) {
  calm();
  const turn = calms;
  try {
    await act();
  } catch (error) {
    if (turn === calms) complain(error.message);
  }
}

// A clip can be had as one, and its first frame as a picture; a first picture as the JPEG or PNG that it is.
function offerFormats(formats) {
  const list = find("format");
  if ([...list.options].map(({ value }) => value).join() === formats.join()) return;
  list.replaceChildren(...formats.map((format) => element("option", { value: format }, format.toUpperCase())));
  if (formats.includes(list.dataset.wish)) list.value = list.dataset.wish;
}

async function main() {
  alertBox.querySelector("button").addEventListener("click", calm);
  for (const kind of ["dragover", "drop"]) document.addEventListener(kind, (event) => event.preventDefault());
  const page = await api.page();
  find("engine").textContent = `${page.version} · ${page.weights} network · ${page.device}`;
  offerFormats(page.formats);

  const controls = new Controls(find("main-controls"), find("more-controls"), page);
  const chart = new Chart(find("chart"), find("legend"));
  const stage = new Stage(find("view"), find("bar"), find("said"));
  const brush = new Brush(stage.pair, find("mask"), find("clear"), () => slots.content.pictures[0]);
  const history = new History(find("results"), page, choose);
  const slots = Object.fromEntries(
    ["content", "style"].map((role) => [role, new Slot(find(role), { most: role === "style" ? page.limits.styles : 1, complain, changed: remember })]),
  );
  const palette = new Palette(find("palette"), page.examples, { attempt, put: mix });
  let run = null;
  let choices = 0, first = null, shown = null, held = null, isLooking = false;
  let asking = 0, looking = 0, forecasts = 0, painting;
  const shownYet = () => document.body.dataset.stage === "full" && !stage.shown.includes("/large");
  // The curve of the present run, and those of results as they are asked for.
  let curve = null;
  const curves = new Map();

  function remember() {
    calm();
    const pictures = { content: slots.content.pictures, style: slots.style.pictures };
    sessionStorage.setItem("chosen", JSON.stringify({ session: page.session, pictures, ...controls.form() }));
    const content = slots.content.pictures[0];
    if (content?.id !== painting) brush.forget();
    painting = content?.id;
    if (content && !shownYet()) stage.show(api.largeUrl(content.id), "The content");
    stage.compare(content ? api.largeUrl(content.id) : null);
    document.querySelector("#content .empty b").textContent = isTexture() ? "Not needed for a texture" : "Drop a picture";
    palette.show(slots.style.pictures, controls.value("style_weights"));
    clearTimeout(asking);
    forecasts++;
    find("start").textContent = "Start";
    asking = setTimeout(foresee, 500);
    clearTimeout(looking);
    looking = setTimeout(showFirst, 20);
  }

  // Takes styles that come with fastnst, or other shares of those that are there.
  function mix(pictures, shares) {
    controls.set("style_weights", shares);
    if (pictures) slots.style.put(pictures);
  }

  // What a first picture is made of.
  const firstOf = ({ content, styles, form }) => JSON.stringify([content, styles, form.style_weights, form.style_scale, form.preserve_color]);

  // Shows what the network that ships makes of the pictures at once, where their styles are its own. While a slider moves
  // it asks for one after the other: the server makes also those that nobody waits for any more.
  async function showFirst() {
    const run = wanted();
    if (!run || isBusy() || firstOf(run) === first) return;
    if (JSON.stringify(run.styles) !== shown) controls.offerFirst(false);
    shown = JSON.stringify(run.styles);
    if (isLooking) return;
    first = firstOf(run);
    isLooking = true;
    const turn = choices, picture = await api.first(run).finally(() => (isLooking = false));
    const now = wanted();
    if (now && firstOf(now) !== first) return showFirst();
    if (turn !== choices || isBusy()) return;
    controls.offerFirst(picture !== null);
    if (picture === null) return;
    const old = held;
    held = { url: URL.createObjectURL(picture), format: picture.type.replace("image/", ""), name: `${slots.content.pictures[0].name.replace(/\.[^.]*$/, "")}-first` };
    history.select(null);
    const drawn = stage.show(held.url, "A first picture");
    offerActions(null);
    await drawn;
    if (old) URL.revokeObjectURL(old.url);
    stage.say(["A first picture, made in one pass.", "Press Start to refine it, with finer strokes."]);
  }

  // A texture needs no content: where none is given, it is a square.
  const isTexture = () => controls.preset() === "texture";

  // What a start asks for, or null where a picture is missing.
  function wanted() {
    const [content] = slots.content.pictures, styles = slots.style.pictures.map(({ id }) => id);
    const content_id = content?.id ?? (isTexture() ? null : undefined);
    return content_id !== undefined && styles.length ? { content: content_id, styles, ...controls.form() } : null;
  }

  // Says on the button how long the run will take, where that can be known.
  async function foresee() {
    const run = wanted(), turn = ++forecasts;
    if (!run || isBusy()) return;
    const { seconds, refusal } = await api.forecast(run).catch(({ message }) => ({ refusal: message }));
    if (turn !== forecasts) return;
    controls.refuse(refusal ?? "");
    if (seconds) find("start").textContent = `Start · about ${clock(seconds)}`;
  }
  controls.heard = remember;

  // Shows what is selected: the run that goes on, or a result.
  function show() {
    const result = history.get(history.selected);
    drawCurve(result).catch((error) => complain(error.message));
    if (history.selected === "live" && run) {
      stage.say(ofRun(run) ?? ["", ""]);
      stage.progress(run.done ?? 0);
      if (run.preview) stage.show(api.previewUrl(run.number, run.preview), "The image so far");
      else stage.wait();
    } else if (result) {
      stage.say(ofResult(result, page));
      stage.progress(isBusy() ? (run.done ?? 0) : 1);
      stage.show(api.imageUrl(result.id), `Result ${result.id}`);
    }
    offerActions(result);
  }

  // Draws the losses of what is shown.
  async function drawCurve(result) {
    if (!result) {
      chart.put(curve);
      return;
    }
    if (!curves.has(result.id)) curves.set(result.id, await api.losses(result.id));
    if (history.selected === result.id) chart.put(curves.get(result.id));
  }

  function offerActions(result) {
    const button = find("continue"), download = find("download");
    const picture = held?.url === stage.shown ? held : null;
    find("actions").inert = !result && !picture;
    if (!result) {
      button.textContent = "Continue larger";
      button.disabled = true;
      if (picture) {
        offerFormats([picture.format]);
        Object.assign(download, { href: picture.url, download: `${picture.name}.${picture.format.replace("jpeg", "jpg")}` });
      }
      return;
    }
    const size = Math.min(2 * result.size, page.limits.size);
    button.disabled = isBusy() || size <= result.size || result.frames > 0;
    button.textContent = size > result.size ? `Continue at ${size} px` : "Largest size reached";
    button.onclick = () => attempt(() => api.proceed(result.id, size));
    offerFormats(result.formats);
    Object.assign(download, { href: api.fileUrl(result.id, find("format").value), download: "" });
  }

  const isBusy = (asked = run) => asked !== null && asked.state === "running";

  function choose(id) {
    history.select(id);
    const result = history.get(id);
    if (result) {
      slots.content.put([result.content]);
      slots.style.put(result.styles);
      controls.restore(result);
      first = firstOf(wanted());
      choices++; // one that is on its way would take the result's place
      brush.put(result.content, result.mask && api.largeUrl(result.mask)).catch((error) => complain(error.message));
    }
    show();
  }

  function heard({ session, run: now, results }) {
    if (session !== page.session) {
      complain("the program was restarted, so this page's pictures are gone; load the page again");
      return;
    }
    const before = run;
    if (now && before && now.number !== before.number) calm();
    if (now?.notes && isBusy(now) && now.notes !== before?.notes) complain(now.notes);
    run = now;
    if (now) {
      const points = now.since === 0 ? now.points : [...curve.points.slice(0, now.since), ...now.points];
      curve = { points, terms: now.terms, iterations: now.iterations };
      now.points = points;
    }
    if (results) {
      history.put(results);
      controls.offer(results);
    }
    follow(before);
    find("start").hidden = isBusy();
    find("stop").hidden = !isBusy();
    find("stop").disabled = now?.stopping ?? false;
    show();
  }

  // Selects a run when it begins, and its result when it is over.
  function follow(before) {
    history.run(isBusy() && run.preview ? api.previewUrl(run.number, run.preview) : null);
    if (isBusy() && before?.number !== run.number) history.select("live");
    const ended = run && !isBusy() && (before === null || before.number !== run.number || before.state !== run.state);
    if (!ended) return;
    if (run.message && before !== null) complain(run.message);
    if (history.selected !== "live" && before !== null) return;
    history.select(run.result);
    if (!run.result) {
      stage.say(["Nothing was made yet.", run.message ? "" : "It was stopped before its first iteration."]);
      stage.progress(0);
    }
  }

  find("controls").addEventListener("submit", (event) => {
    event.preventDefault();
    attempt(async () => {
      const run = wanted();
      if (!run && isTexture()) throw new Error("give a style picture first");
      if (!run) throw new Error("give a content picture and a style picture first");
      await api.start({ ...run, mask: await brush.sent() });
      stage.wait();
      if (matchMedia("(max-width: 999px)").matches) document.querySelector(".stage").scrollIntoView({ block: "start" });
    });
  });
  find("stop").addEventListener("click", () => attempt(api.stop));
  find("reset").addEventListener("click", () => controls.restore({ form: {}, begins: null }));
  find("format").addEventListener("change", ({ target }) => {
    target.dataset.wish = target.value;
    show();
  });
  find("examples").addEventListener("click", () =>
    attempt(async () => {
      const [content, style] = [await api.example("content"), await api.example("style_swirls")];
      slots.content.put([content]);
      slots.style.put([style]);
    }),
  );

  const chosen = JSON.parse(sessionStorage.getItem("chosen") ?? "null");
  if (chosen?.session === page.session) {
    slots.content.put(chosen.pictures.content);
    slots.style.put(chosen.pictures.style);
    controls.restore(chosen);
  }
  api.listen(heard, {
    silent: () => complain("the server does not answer; check in its terminal whether it still runs"),
    back: calm,
  });
}

attempt(main);
