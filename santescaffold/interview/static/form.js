// The form: built from api/form, checked by api/check while somebody types, saved by api/save after every change.
"use strict";

const state = {
  form: null, answers: {}, revision: "", effective: {}, applicable: new Set(), findings: [], section: 0, widgets: new Map(),
  change: 0, saved: 0, saving: false, timers: {},
};
const $ = (id) => document.getElementById(id);
const blank = (value) => value === undefined || value === null || value === "" ||
  (Array.isArray(value) && value.length === 0) ||
  (typeof value === "object" && !Array.isArray(value) && Object.keys(value).length === 0);
const copy = (value) => (value === undefined ? undefined : JSON.parse(JSON.stringify(value)));

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node && name !== "list" && name !== "form") node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== ""));
  return node;
}

async function call(path, body) {
  const response = await fetch(`api/${path}`, body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json", "X-Interview": "1" }, body: JSON.stringify(body),
  });
  const json = (response.headers.get("Content-Type") || "").startsWith("application/json");
  const found = json ? await response.json() : await response.text();
  if (!response.ok) throw new Error((json && found.error) || `the form's server answered ${response.status}; start it again`);
  return found;
}

function say(text, bad = false) {
  $("saved").textContent = text;
  $("saved").classList.toggle("bad", bad);
}

// ---- values in words -------------------------------------------------------------------------------------------------

function words(spec, value) {
  if (blank(value)) return spec.form === "bool" ? "" : "none";
  if (typeof value === "boolean") return value ? "Yes" : "No";
  if (Array.isArray(value)) return value.map((entry) => words(spec, entry)).join(", ");
  if (typeof value === "object") return "as below";
  const choice = spec.choices.find((entry) => entry.value === value);
  return choice ? choice.label : String(value);
}

function number(text, form) {
  const pattern = form === "number" ? /^-?\d{1,15}(\.\d+)?$/ : /^-?\d{1,15}$/;
  return pattern.test(text) ? Number(text) : text;
}

function offered(spec) {
  if (!spec.in_answer) return spec.choices;
  const among = state.effective[spec.in_answer] || [];
  return spec.choices.filter((choice) => among.includes(choice.value));
}

// ---- one value: a text, a number, yes or no, a choice, several choices, several texts -----------------------------------
// Each returns {node, focus, show(value, proposal)}; `give` is called with the new value, undefined for "no answer".

function textWidget(spec, id, give) {
  const several = spec.form === "list";
  const input = several || spec.long
    ? make("textarea", { id, rows: 2 })
    : make("input", {
      id, type: spec.form === "email" ? "email" : "text",
      inputMode: spec.form === "int" ? "numeric" : spec.form === "number" ? "decimal" : "text",
    });
  if (several) input.title = "One a line";
  input.addEventListener("input", () => {
    const text = input.value.trim();
    if (several) {
      const lines = text.split("\n").map((line) => line.trim()).filter(Boolean);
      give(lines.length ? lines : undefined);
    } else if (text === "") give(undefined);
    else give(spec.form === "int" || spec.form === "number" ? number(text, spec.form) : text);
  });
  return {
    node: input, focus: input,
    show(value, proposal) {
      if (document.activeElement !== input) input.value = several && Array.isArray(value) ? value.join("\n") : value ?? "";
      const hint = blank(proposal) || typeof proposal === "object" ? "" : `proposed: ${proposal}`;
      input.placeholder = hint || (spec.form === "date" ? "YYYY-MM-DD" : spec.example ? `e.g. ${spec.example}` : several ? "one a line" : "");
    },
  };
}

function selectWidget(spec, id, give) {
  const select = make("select", { id });
  const yesNo = [{ value: "true", label: "Yes" }, { value: "false", label: "No" }];
  select.addEventListener("change", () => {
    if (select.value === "") give(undefined);
    else if (spec.form === "bool" && ["true", "false"].includes(select.value)) give(select.value === "true");
    else give(select.value);
  });
  return {
    node: select, focus: select,
    show(value, proposal) {
      const choices = spec.form === "bool" ? yesNo : offered(spec);
      const known = choices.some((choice) => choice.value === String(value));
      const proposed = words(spec, proposal);
      const first = spec.item ? (spec.follows ? "as planned" : "–") : !blank(value) ? "Take the proposal again"
        : proposed && proposed !== "none" ? `Proposed: ${proposed}` : "–";
      const wanted = [{ value: "", label: first }, ...choices, ...(blank(value) || known ? [] : [{ value: String(value), label: String(value) }])];
      const shape = JSON.stringify(wanted);
      if (select.dataset.shape !== shape) {
        select.replaceChildren(...wanted.map((choice) => make("option", { value: choice.value }, choice.label)));
        select.dataset.shape = shape;
      }
      select.value = value === undefined || value === null ? "" : String(value);
    },
  };
}

function checksWidget(spec, id, give, label) {
  const boxes = make("div", { className: "checks" });
  let shown = [];
  const change = () => {
    const chosen = [...boxes.querySelectorAll("input:checked")].map((box) => box.value);
    const unknown = shown.filter((value) => !spec.choices.some((choice) => choice.value === value));
    give([...chosen, ...unknown.filter((value) => !chosen.includes(value))]);
  };
  spec.choices.forEach((choice, place) => boxes.append(make("label", {},
    make("input", { type: "checkbox", id: `${id}-${place}`, value: choice.value, onchange: change }), ` ${choice.label}`)));
  const show = (value, proposal) => {
    shown = Array.isArray(value) ? value : Array.isArray(proposal) ? proposal : [];
    for (const box of boxes.querySelectorAll("input")) box.checked = shown.includes(box.value);
  };
  if (!label) return { node: boxes, focus: boxes.querySelector("input"), show };
  const head = make("summary", { id });
  const details = make("details", { className: "many" }, head, make("fieldset", {}, make("legend", {}, label), boxes));
  return {
    node: details, focus: head,
    show(value, proposal) {
      show(value, proposal);
      head.textContent = shown.length ? shown.join(", ") : "choose…";
      head.setAttribute("aria-label", `${label}: ${head.textContent}`);
    },
  };
}

function widget(spec, id, give, cell = "") {
  if (spec.form === "multi") return checksWidget(spec, id, give, cell);
  if (spec.form === "bool" || spec.form === "choice") return selectWidget(spec, id, give);
  return textWidget(spec, id, give);
}

// ---- structures and lists ----------------------------------------------------------------------------------------------

function structWidget(question, id, give) {
  const node = make("div", { className: "fields" });
  let current = {};
  const parts = question.fields.map((field) => {
    const part = widget(field, `${id}.${field.name}`, (value) => {
      if (value === undefined || (Array.isArray(value) && !value.length)) delete current[field.name];
      else current[field.name] = value;
      give(Object.keys(current).length ? copy(current) : undefined);
    }, field.form === "multi" ? field.label : "");
    const row = make("div", { className: "field" }, make("label", { htmlFor: `${id}.${field.name}` }, field.label,
      field.required ? make("span", { className: "required", title: "required" }, " *") : ""), part.node);
    node.append(row);
    return [field, part];
  });
  return {
    node, focus: parts[0][1].focus, cells: (item, name) => parts.filter(([field]) => field.name === name).map(([, part]) => part.focus),
    show(value, proposal) {
      current = value && typeof value === "object" && !Array.isArray(value) ? copy(value) : {};
      for (const [field, part] of parts) part.show(current[field.name], (proposal || {})[field.name]);
    },
  };
}

function tableWidget(question, id, give) {
  const fields = question.fields.map((field) => ({ ...field, item: true }));
  const body = make("tbody");
  const table = make("table", {},
    make("caption", { className: "quiet" }, question.label),
    make("thead", {}, make("tr", {}, make("th", { scope: "col" }, "#"), ...fields.map((field) => make("th", { scope: "col", title: field.help },
      field.label, field.required ? make("span", { className: "required", title: "required" }, " *") : "")), make("th", {}, make("span", { className: "quiet" }, "Remove")))),
    body);
  const add = make("button", { type: "button", id: `${id}.add`, onclick: () => {
    items.push({});
    tell();
    draw();
    rows[rows.length - 1].parts[0].focus.focus();
  } }, "Add a row");
  const replace = make("input", { type: "checkbox", id: `${id}.replace` });
  const file = make("input", { type: "file", accept: ".csv,text/csv", hidden: true, id: `${id}.csv`, "aria-label": `CSV file with ${question.label}` });
  const note = make("span", { role: "status", className: "note" });
  file.addEventListener("change", async () => {
    if (!file.files.length) return;
    try {
      const found = await call(`table/${question.id}`, { text: await file.files[0].text() });
      items = replace.checked ? found.items : [...items, ...found.items];
      note.textContent = `${found.items.length} rows taken over.`;
      tell();
      draw();
    } catch (error) {
      note.textContent = error.message;
    }
    file.value = "";
  });
  const tools = make("p", { className: "tools" }, add,
    make("button", { type: "button", onclick: () => file.click() }, "Import CSV…"), file,
    make("label", {}, replace, " in place of these rows"),
    make("button", { type: "button", onclick: async () => save(`${question.id}.csv`, await call(`table/${question.id}`, { items })) }, "Export CSV"), note);
  let items = [];
  let rows = [];
  let drawn = null;
  const tell = () => give(items.length ? copy(items) : undefined);
  const draw = () => {
    drawn = JSON.stringify(items);
    table.hidden = !items.length;
    rows = items.map((item, place) => {
      const parts = fields.map((field) => {
        const name = `row ${place + 1}, ${field.label}`;
        const part = widget(field, `${id}.${place}.${field.name}`, (value) => {
          if (value === undefined || (Array.isArray(value) && !value.length)) delete items[place][field.name];
          else items[place][field.name] = value;
          drawn = JSON.stringify(items);
          if (field.form === "multi") part.show(items[place][field.name]);
          tell();
        }, name);
        part.focus.setAttribute("aria-label", name);
        part.show(item[field.name]);
        return part;
      });
      const remove = make("button", { type: "button", "aria-label": `Remove row ${place + 1}`, title: "Remove this row", onclick: () => {
        items.splice(place, 1);
        tell();
        draw();
        add.focus();
      } }, "×");
      return { parts, node: make("tr", {}, make("th", { scope: "row" }, String(place + 1)), ...parts.map((part) => make("td", {}, part.node)), make("td", {}, remove)) };
    });
    body.replaceChildren(...rows.map((row) => row.node));
  };
  draw();
  return {
    node: make("div", {}, make("div", { className: "table", role: "region", tabIndex: 0, "aria-label": `Table: ${question.label}` }, table), tools),
    focus: add,
    cells: (item, name) => (rows[item] ? rows[item].parts.filter((_, place) => name === null || fields[place].name === name).map((part) => part.focus) : []),
    show(value, proposal) {
      const wanted = Array.isArray(value) ? value : Array.isArray(proposal) ? proposal : [];
      const plain = wanted.map((item) => Object.fromEntries(Object.entries(item || {}).filter(([, entry]) => entry !== null)));
      if (JSON.stringify(plain) !== drawn) {
        items = copy(plain);
        draw();
      } else for (const [place, row] of rows.entries()) fields.forEach((field, column) => row.parts[column].show(items[place][field.name]));
    },
  };
}

// ---- a question --------------------------------------------------------------------------------------------------------

function questionNode(question) {
  const id = `q.${question.id}`;
  const give = (value) => answer(question, value);
  const made = question.form === "struct" ? structWidget(question, id, give)
    : question.form === "list" && question.fields.length ? tableWidget(question, id, give)
      : widget(question, id, give);
  const single = !["struct", "multi"].includes(question.form) && !(question.form === "list" && question.fields.length);
  const title = [question.question, " ", question.required ? make("span", { className: "required" }, "(required) ") : "", make("code", {}, question.id)];
  const messages = make("div", { className: "messages", id: `${id}.messages`, "aria-live": "polite" });
  const reset = make("button", { type: "button", className: "link", hidden: true, onclick: () => {
    answer(question, undefined);
    made.show(undefined, state.effective[question.id]);
    made.focus.focus();
  } }, "Take the proposal again");
  const proposal = make("p", { className: "proposal" });
  const more = make("details", { className: "why" }, make("summary", {}, "Why, and what it changes"),
    make("p", {}, question.why),
    make("p", {}, question.changes.length ? `Changes: ${question.changes.join(", ")}.` : "Changes what the question says."),
    question.follows ? make("p", {}, `Left open, the plan takes: ${question.follows}.`) : "");
  const hints = [
    question.more || question.help ? make("p", { className: "hint", id: `${id}.hint` }, [question.more, question.help && question.form === "text" ? `Please ${question.help}.` : ""].filter(Boolean).join(" ")) : "",
    question.example ? make("pre", {}, question.example) : "",
  ];
  const node = single
    ? make("div", { className: "question" }, make("label", { htmlFor: id, className: "legend" }, ...title), ...hints, made.node, proposal, messages, reset, more)
    : make("fieldset", { className: "question" }, make("legend", { className: "legend" }, ...title), ...hints, made.node, proposal, messages, reset, more);
  node.id = `question.${question.id}`;
  if (single) made.focus.setAttribute("aria-describedby", `${id}.hint ${id}.messages`);
  else node.setAttribute("aria-describedby", `${id}.messages`);
  if (question.required && single) made.focus.setAttribute("aria-required", "true");
  return { node, made, messages, reset, proposal, question };
}

function shown(id) {
  if (!state.applicable.has(id)) return false;
  return state.answers.interview === "full" || state.form.questions[id].essential || id in state.answers ||
    state.findings.some((finding) => finding.severity === "error" && finding.answers.includes(id));
}

const missing = (finding) => finding.id === "V04" && finding.item === null && finding.field === null;

function draw() {
  const section = state.form.sections[state.section];
  state.widgets.clear();
  $("title").textContent = section.title;
  $("form").replaceChildren(...section.groups.map((group) => {
    const parts = group.questions.map((id) => {
      const part = questionNode(state.form.questions[id]);
      state.widgets.set(id, part);
      return part.node;
    });
    return make("section", { "aria-label": group.title }, make("h3", {}, group.title), ...parts);
  }));
  $("previous").disabled = state.section === 0;
  $("next").disabled = state.section === state.form.sections.length - 1;
  refresh();
}

function refresh() {
  for (const [id, part] of state.widgets) {
    part.node.hidden = !shown(id);
    const given = id in state.answers;
    const proposal = state.effective[id];
    part.made.show(state.answers[id], proposal);
    part.reset.hidden = !given || part.node.tagName !== "FIELDSET";
    const multi = part.question.form === "multi" || (part.question.form === "list" && part.question.fields.length);
    part.proposal.textContent = !given && multi && !blank(proposal) ? "Proposed by the plan." : "";
    const found = state.findings.filter((finding) => finding.answers.includes(id) && finding.severity !== "note");
    const text = JSON.stringify(found);
    for (const control of part.node.querySelectorAll("[aria-invalid]")) control.removeAttribute("aria-invalid");
    for (const finding of found) {
      if (finding.severity !== "error" || missing(finding)) continue;
      const cells = part.made.cells && (finding.item !== null || finding.field !== null) ? part.made.cells(finding.item, finding.field) : [part.made.focus];
      for (const control of cells) control.setAttribute("aria-invalid", "true");
    }
    if (part.messages.dataset.shown !== text) {
      part.messages.dataset.shown = text;
      part.messages.replaceChildren(...found.map(message));
    }
  }
  for (const group of $("form").children) group.hidden = ![...group.querySelectorAll(".question")].some((node) => !node.hidden);
  drawSections();
  const name = state.answers.project_name;
  $("project").textContent = name ? `· ${name}` : "";
  for (const radio of document.querySelectorAll("[name=scope]")) radio.checked = radio.value === (state.answers.interview || "essential");
}

function message(finding) {
  const kind = missing(finding) ? "missing" : finding.severity;
  const word = { missing: "Still open", error: "To correct", warn: "Warning", people: "To decide" }[kind];
  const place = finding.item === null ? "" : `${finding.where.split(", ").slice(1).join(", ")}: `;
  return make("p", { className: `message ${kind}` }, make("strong", {}, `${word}: `), `${place}${finding.message}. `,
    make("span", {}, `${finding.why}; ${finding.todo}.`), " ", make("code", {}, finding.id));
}

function sectionOf(id) {
  return state.form.sections.findIndex((section) => section.groups.some((group) => group.questions.includes(id)));
}

function drawSections() {
  $("sections").replaceChildren(...state.form.sections.map((section, place) => {
    const ids = section.groups.flatMap((group) => group.questions);
    const wrong = state.findings.filter((finding) => finding.severity === "error" && finding.answers.some((id) => ids.includes(id)));
    const open = wrong.filter(missing).length;
    const notes = [open ? `${open} open` : "", wrong.length > open ? `${wrong.length - open} to correct` : ""].filter(Boolean).join(", ");
    const link = make("button", { type: "button", onclick: () => go(place) }, section.title);
    if (place === state.section) link.setAttribute("aria-current", "step");
    return make("li", {}, link, notes ? make("span", { className: wrong.length > open ? "count wrong" : "count" }, notes) : "");
  }));
}

function go(place, id = "") {
  state.section = place;
  $("summary").hidden = true;
  draw();
  const part = state.widgets.get(id);
  if (!part) {
    $("questions").focus();
    window.scrollTo(0, 0);
    return;
  }
  part.node.scrollIntoView({ block: "center" });
  part.made.focus.focus();
}

// ---- answers, checks, saving --------------------------------------------------------------------------------------------

function answer(question, value) {
  if (value === undefined || (question.clears && Array.isArray(value) && !value.length)) delete state.answers[question.id];
  else state.answers[question.id] = value;
  changed();
}

function changed() {
  state.change += 1;
  say("Saving…");
  later("check", 200, check);
  later("save", 400, store);
  later("plan", 900, plan);
}

function later(name, delay, work) {
  clearTimeout(state.timers[name]);
  state.timers[name] = setTimeout(work, delay);
}

async function check() {
  const change = state.change;
  try {
    const found = await call("check", { answers: state.answers });
    if (change !== state.change) return;
    Object.assign(state, { findings: found.findings, effective: found.effective, applicable: new Set(found.applicable) });
    document.body.dataset.checked = String(change);
    refresh();
  } catch (error) {
    say(`Not checked: ${error.message}`, true);
  }
}

async function store() {
  if (state.saving) return later("save", 200, store);
  state.saving = true;
  const change = state.change;
  try {
    const found = await call("save", { answers: state.answers, revision: state.revision });
    state.revision = found.revision;
    state.saved = change;
    document.body.dataset.saved = String(change);
    if (change === state.change) say(`Saved ${new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" })}`);
  } catch (error) {
    say(`Not saved: ${error.message}`, true);
  } finally {
    state.saving = false;
  }
}

async function plan() {
  const change = state.change;
  let found;
  try {
    found = await call("plan", { answers: state.answers });
  } catch (error) {
    $("plan").replaceChildren(make("p", {}, error.message));
    return;
  }
  if (change !== state.change) return;
  const wrong = state.findings.filter((finding) => finding.severity === "error").length;
  const list = (title, entries, open = false) => make("details", { open }, make("summary", {}, title), make("ul", {}, ...entries));
  $("plan").replaceChildren(
    make("p", {}, `${found.roles.join(", ")}; SanteDB ${found.release.line} in ${found.release.runtime}.`),
    wrong ? make("p", { className: "message missing" }, `A sketch: ${wrong} ${wrong === 1 ? "answer is" : "answers are"} open or to correct.`) : "",
    list(`${found.hosts.length} hosts${found.gateways ? `, ${found.gateways} gateways` : ""}`, found.hosts.map((host) =>
      make("li", {}, make("strong", {}, host.name), ` (${host.environment}) ${host.groups.join(", ")}${host.placeholder ? " – placeholder" : ""}`)), true),
    list(`${found.features.length} features`, found.features.map((feature) => make("li", { title: feature.why }, make("code", {}, feature.id), ` ${feature.why}`))),
    list(`${found.tasks.all} tasks, ${found.tasks.gates} of them gates`, found.tasks.phases.map((phase) => make("li", {}, `${phase.name}: ${phase.tasks}`))),
    make("p", {}, `${found.databases} databases, ${found.certificates} certificates.`),
    list(`${found.warnings.length} warnings`, found.warnings.map((warning) => make("li", {}, `${warning.message}: ${warning.todo}`))));
  document.body.dataset.planned = String(change);
}

function save(name, text) {
  const link = make("a", { href: URL.createObjectURL(new Blob([text])), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

async function finish(anyway = false) {
  clearTimeout(state.timers.save);
  while (state.saving) await new Promise((done) => setTimeout(done, 50));
  if (state.saved !== state.change) await store();
  await check();
  if (state.saved !== state.change) return;
  const wrong = state.findings.filter((finding) => finding.severity === "error");
  if (wrong.length && anyway !== true) {
    $("summary").replaceChildren(make("h2", {}, `${wrong.length} ${wrong.length === 1 ? "answer is" : "answers are"} open or to correct`),
      make("ul", {}, ...wrong.map((finding) => {
        const id = finding.answers[finding.answers.length - 1];
        return make("li", {}, make("a", { href: `#question.${id}`, onclick: (event) => {
          event.preventDefault();
          go(sectionOf(id), id);
        } }, `${(state.form.questions[id] || { label: id }).label}: ${finding.message}`));
      })),
      make("p", {}, make("button", { type: "button", onclick: () => finish(true) }, "Stop here, go on another day")));
    $("summary").hidden = false;
    $("summary").focus();
    $("summary").scrollIntoView();
    return;
  }
  const done = await call("finish", {});
  document.body.replaceChildren(make("main", { className: "done", tabIndex: -1 }, make("h1", {}, "Saved"),
    make("p", {}, "The answers are in ", make("code", {}, done.file), ". This page can be closed; the terminal says what to run next.")));
}

async function takeOver() {
  const [file] = $("import-file").files;
  if (!file) return;
  try {
    const found = await call("import", { text: await file.text() });
    Object.assign(state.answers, found.answers);
    draw();
    changed();
    if (found.problems.length) {
      $("summary").replaceChildren(make("h2", {}, "Imported, with remarks"), make("ul", {}, ...found.problems.map((text) => make("li", {}, text))));
      $("summary").hidden = false;
      $("summary").focus();
    }
  } catch (error) {
    say(`Not imported: ${error.message}`, true);
  }
  $("import-file").value = "";
}

async function start() {
  const [form, given] = await Promise.all([call("form"), call("answers")]);
  Object.assign(state, { form, answers: given.answers, revision: given.revision });
  $("previous").addEventListener("click", () => go(state.section - 1));
  $("next").addEventListener("click", () => go(state.section + 1));
  $("finish").addEventListener("click", () => finish());
  $("import").addEventListener("click", () => $("import-file").click());
  $("import-file").addEventListener("change", takeOver);
  $("export").addEventListener("click", async () => save(given.file.split("/").pop(), await call("export", { answers: state.answers })));
  $("form").addEventListener("submit", (event) => event.preventDefault());
  for (const radio of document.querySelectorAll("[name=scope]")) {
    radio.addEventListener("change", () => {
      state.answers.interview = radio.value;
      refresh();
      changed();
    });
  }
  window.addEventListener("beforeunload", (event) => {
    if (state.saved !== state.change && state.revision !== null) event.preventDefault();
  });
  await check();
  draw();
  say(given.revision ? "Opened" : "New");
  plan();
}

start().catch((error) => say(error.message, true));
