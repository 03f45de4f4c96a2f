// The controls, built from what the server says of each option. What nobody changed follows the preset.

import { element } from "./element.js";

export class Controls {
  constructor(main, more, page) {
    this.page = page;
    this.changed = new Map();
    this.rows = new Map();
    this.heard = () => {};
    this.refusal = "";
    for (const control of page.controls) {
      if (control.group && control.group !== this.group) {
        more.append(element("h2", {}, control.group));
        this.group = control.group;
      }
      (control.group ? more : main).append(this.row(control));
    }
    this.begins = beginning(page);
    main.append(this.begins.row);
    this.begins.select.addEventListener("change", () => this.beginAt(this.begins.select.value));
    this.show();
  }

  // One control: its label, its field, a slider where it has a range, its meaning.
  row(control) {
    const id = `option-${control.name}`;
    const field = this.field(control, id);
    const back = element("button", { type: "button", className: "back", title: "Use the preset's value" }, "reset");
    back.addEventListener("click", () => this.set(control.name, null));
    const slider = control.slider && this.slider(control, field);
    const label = element("label", { htmlFor: id, title: control.meaning }, control.label);
    const top = element("div", { className: "top" }, label, back, field);
    const hint = control.group ? element("p", { className: "hint" }, control.meaning) : "";
    const wide = control.name.endsWith("_layers") || control.placeholder.length > 12 ? " wide" : "";
    const wrong = element("p", { className: "wrong", id: `${id}-wrong` });
    field.setAttribute("aria-describedby", wrong.id);
    const row = element("div", { className: `control ${control.kind}${wide}${slider ? " sliding" : ""}` }, top, wrong, slider ?? "", hint);
    field.addEventListener("input", () => this.set(control.name, field.value));
    this.rows.set(control.name, { control, field, slider, wrong, row });
    return row;
  }

  field(control, id) {
    if (control.kind === "choice") {
      return element("select", { id }, ...control.choices.map((choice) => element("option", {}, choice)));
    }
    const keyboard = control.kind === "number" ? (control.whole ? "numeric" : "decimal") : "text";
    return element("input", { id, type: "text", inputMode: keyboard, placeholder: control.placeholder, spellcheck: false });
  }

  slider(control, field) {
    const [low, high, step] = control.slider;
    const scale = step ? { to: (x) => x, from: (x) => x } : { to: Math.log10, from: (x) => Number((10 ** x).toPrecision(2)) };
    const slider = element("input", { type: "range", tabIndex: -1, ariaLabel: control.label });
    slider.min = scale.to(low);
    slider.max = scale.to(high);
    slider.step = step || 0.01;
    slider.put = (text) => (slider.value = scale.to(Number(String(text).split(/[ ,]+/).at(-1))));
    slider.addEventListener("input", () => this.set(control.name, String(scale.from(Number(slider.value)))));
    return slider;
  }

  preset() {
    return this.changed.get("preset") ?? "default";
  }

  // What a control has now: what was typed, else what the preset sets.
  value(name) {
    return this.changed.get(name) ?? this.rows.get(name).control.defaults[this.preset()];
  }

  // Changes a control; null gives it back to the preset.
  set(name, value) {
    const typed = value?.trim() === "" ? null : value;
    const { control } = this.rows.get(name);
    const same = typed === control.defaults[name === "preset" ? "default" : this.preset()];
    if (typed === null || same) this.changed.delete(name);
    else this.changed.set(name, typed);
    this.refusal = "";
    this.show();
    this.heard();
  }

  // Shows what the server says against the values, or "" for nothing, under the field that it begins with.
  refuse(refusal) {
    this.refusal = refusal;
    this.show();
  }

  // Starts from the first picture where there is one, unless another start is chosen.
  offerFirst(there) {
    this.first = there ? "network" : null;
    this.show();
  }

  // Where a run starts if nobody chooses.
  usual() {
    return this.first ?? this.page.begins[this.preset()];
  }

  beginAt(value) {
    this.chosen = value === this.usual() ? null : value;
    this.show();
    this.heard();
  }

  // Shows every value; the field that is being typed in is left alone.
  show() {
    // A message about one of several style weights begins with "style weight".
    const refused = [...this.changed.keys()].find((name) => this.refusal.startsWith(name.replaceAll("_", " ").replace(/s$/, "")));
    for (const [name, { control, field, slider, wrong, row }] of this.rows) {
      const value = this.value(name);
      if (document.activeElement !== field) field.value = value;
      if (slider) slider.put(value);
      row.classList.toggle("changed", this.changed.has(name));
      wrong.textContent = problem(control, value) || (name === refused ? this.refusal : "");
      field.ariaInvalid = String(wrong.textContent !== "");
    }
    this.begins.select.value = this.form().begins;
    this.begins.row.classList.toggle("changed", this.chosen != null);
  }

  form() {
    return { form: Object.fromEntries(this.changed), begins: this.chosen ?? this.usual() };
  }

  // Puts back a form as `form` gave it; a name that is no control any more is left out.
  restore({ form, begins }) {
    this.changed = new Map(Object.entries(form).filter(([name]) => this.rows.has(name)));
    this.refusal = "";
    const known = [...this.begins.select.options].some((option) => option.value === begins);
    this.chosen = known && begins !== this.usual() ? begins : null;
    this.show();
    this.heard();
  }

  // Offers the results as pictures to start from.
  offer(results) {
    const options = results.map((result) => element("option", { value: result.id }, `result ${result.id}`));
    this.begins.results.replaceChildren(...options);
    this.begins.results.hidden = options.length === 0;
    if (this.chosen && ![...this.begins.select.options].some((option) => option.value === this.chosen)) this.chosen = null;
    this.show();
  }
}

function beginning(page) {
  const results = element("optgroup", { label: "Results", hidden: true });
  const select = element("select", { id: "begins" }, ...page.starts.map((word) => element("option", { value: word }, word)), results);
  const label = element("label", { htmlFor: "begins", title: "Choose the image that the run starts from" }, "Start from");
  return { row: element("div", { className: "control choice" }, element("div", { className: "top" }, label, select)), select, results };
}

// What is wrong with a number or a size, as far as the page can tell; "" for nothing.
function problem({ kind, minimum, maximum }, text) {
  if (!["number", "size"].includes(kind) || text === "") return "";
  if (kind === "size" && /^ *(content|[\d.]+ *%|\d+ *[x×*] *\d+ *(px)?) *$/i.test(text)) return "";
  const number = Number(text);
  if (!Number.isFinite(number)) return kind === "size" ? "write 512, 50%, 1920x1080 or content" : "give a number";
  if (minimum !== null && number < minimum) return `give ${minimum} or more`;
  return maximum !== null && number > maximum ? `give ${maximum} or less` : "";
}
