// Makes the pages quicker to use; all of them work without it. Pages contain no code.
"use strict";
(() => {
  document.documentElement.classList.add("scripted");
  const find = (id) => document.getElementById(id);

  // -- settings: search while typing, and count the edited settings
  const form = find("settings");
  const search = find("q");
  const rows = form ? [...form.querySelectorAll(".setting")] : [];

  function filter() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let seen = 0;
    for (const row of rows) {
      row.hidden = !words.every((word) => row.dataset.search.includes(word));
      seen += row.hidden ? 0 : 1;
    }
    for (const group of form.querySelectorAll(".group")) {
      group.hidden = !group.querySelector(".setting:not([hidden])");
    }
    find("nothing-found").hidden = seen > 0;
    // The address keeps the search, except after a form, whose address shows nothing by itself.
    const here = new URL(search.form.action);
    if (here.pathname === location.pathname) {
      if (words.length) here.searchParams.set("q", search.value);
      history.replaceState(null, "", here);
    }
    count();
  }

  function isDirty(row) {
    if (row.dataset.edited) return true; // edited before, and refused
    return [...row.querySelectorAll("input, select, textarea")].some((input) => {
      if (input.type === "hidden") return false;
      if (input.type === "checkbox") return input.checked !== input.defaultChecked;
      if (input.tagName === "SELECT") {
        return [...input.options].some((option) => option.selected !== option.defaultSelected) &&
          [...input.options].some((option) => option.defaultSelected);
      }
      return input.value !== input.defaultValue;
    });
  }

  function count() {
    let dirty = 0;
    let unseen = 0;
    for (const row of rows) {
      const is = isDirty(row);
      row.classList.toggle("dirty", is);
      dirty += is ? 1 : 0;
      unseen += is && row.hidden ? 1 : 0;
    }
    const place = find("count");
    const more = unseen ? `, ${unseen} of them not shown by the search` : "";
    if (place) place.textContent = dirty ? `${dirty} changed${more}` : "";
    return dirty;
  }

  if (form) {
    if (search) {
      search.addEventListener("input", filter);
      search.form.addEventListener("submit", (event) => event.preventDefault());
      document.addEventListener("keydown", (event) => {
        if (event.key !== "/" || event.target.closest("input, select, textarea")) return;
        event.preventDefault();
        search.focus();
      });
    }
    form.addEventListener("input", count);
    let leaving = false;
    form.addEventListener("submit", () => {
      leaving = true;
      if (search) form.elements.q.value = search.value;
    });
    window.addEventListener("beforeunload", (event) => {
      if (!leaving && count()) event.preventDefault();
    });
    window.addEventListener("pageshow", () => { leaving = false; count(); });
    const wrong = form.querySelector("[aria-invalid]") || find("refused");
    if (wrong) wrong.focus();
  }

  // -- processes: ask until every one serves the revision, more rarely as time goes by
  const fleet = find("fleet");

  function cell(row, label, text, className) {
    const made = row.insertCell();
    made.dataset.label = label;
    if (className) made.className = className;
    if (label === "State") {
      made.className = "state-cell";
      const state = document.createElement("span");
      state.className = "state";
      state.textContent = text;
      made.append(state);
    } else {
      made.textContent = text;
    }
  }

  function show(found) {
    fleet.classList.toggle("complete", found.is_complete);
    find("summary").textContent = found.summary;
    const progress = find("progress");
    progress.max = found.total || 1;
    progress.value = found.total ? found.applied : 1;
    find("missing").replaceChildren(...found.missing.map((text) => {
      const item = document.createElement("li");
      item.textContent = text;
      return item;
    }));
    const body = document.createElement("tbody");
    for (const process of found.processes) {
      const row = body.insertRow();
      row.className = process.state;
      cell(row, "Host", process.host);
      cell(row, "Process", process.worker ? `${process.role} ${process.worker}` : process.role);
      cell(row, "pid", process.pid, "number");
      cell(row, "Revision", process.revision, "number");
      if (fleet.dataset.times) cell(row, "After", process.after_ms === null ? "–" : `${process.after_ms.toFixed(1)} ms`, "number");
      cell(row, "State", process.state);
    }
    body.id = "processes";
    find("processes").replaceWith(body);
  }

  async function follow() {
    const began = performance.now();
    let complete = fleet.classList.contains("complete");
    while (!complete && performance.now() - began < 120000) {
      const asked = performance.now();
      try {
        const answer = await fetch(fleet.dataset.url, { headers: { Accept: "application/json" } });
        if (answer.ok) {
          const found = await answer.json();
          show(found);
          complete = found.is_complete;
        }
      } catch (error) {
        // The server may be reloading; ask again.
      }
      // A slow answer keeps a worker busy, so pause for ten times as long.
      const pause = Math.max(performance.now() - began < 3000 ? 100 : 1000, 10 * (performance.now() - asked));
      await new Promise((resolve) => setTimeout(resolve, Math.min(pause, 10000)));
    }
  }
  if (fleet) follow();
})();
