// Keeps the page live: takes over what has changed, element by element, so that focus, scrolling and what is open stay.
"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const live = byId("live"), said = byId("said"), form = byId("filters"), logout = document.querySelector(".logout");
  const FLASH = 1600, TYPING = 80, HEARD = 20000, PATIENCE = 10000;
  let port = null, state = "connecting", query = location.search.slice(1), asked = false;

  // The state of the connection

  function show(now) {
    if (now === state) return;
    state = now;
    live.className = "live is-" + now;
    live.textContent = now === "live" ? "Live" : now === "ended" ? "Your session has ended. What is shown may be old. "
      : "Connection lost, trying again. What is shown may be old.";
    if (logout && now !== "lost") logout.hidden = now === "ended"; // of a lost connection the session is not known
    if (now !== "ended") return;
    const link = document.createElement("a");
    link.href = ""; // this page with its filters: the server shows the form, and leads back here
    link.textContent = "Log in";
    live.append(link);
  }

  // Changes

  const parsed = (html) => {
    const template = document.createElement("template");
    template.innerHTML = html;
    return [...template.content.children];
  };

  function flash(element) {
    element.setAttribute("data-flash", "");
    clearTimeout(element.flashing);
    element.flashing = setTimeout(() => element.removeAttribute("data-flash"), FLASH);
  }

  function morph(old, fresh, quiet) {
    if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) return old.replaceWith(fresh);
    if (old.nodeType !== Node.ELEMENT_NODE) {
      if (old.data !== fresh.data) old.data = fresh.data;
      return;
    }
    if (old.nodeName === "TIME" && old.getAttribute("datetime") === fresh.getAttribute("datetime")) return;
    const passed = old.hasAttribute("data-mark") && old.getAttribute("data-mark") !== fresh.getAttribute("data-mark");
    for (const { name, value } of [...fresh.attributes])
      if (name !== "open" && old.getAttribute(name) !== value) old.setAttribute(name, value);
    for (const { name } of [...old.attributes])
      if (name !== "open" && name !== "data-flash" && !fresh.hasAttribute(name)) old.removeAttribute(name);
    if (passed && !quiet) flash(old);
    let at = old.firstChild;
    for (const child of [...fresh.childNodes]) {
      const same = child.id ? [...old.children].find((each) => each.id === child.id) : at && !at.id && at;
      if (!same) {
        old.insertBefore(child, at);
        if (child.hasAttribute && child.hasAttribute("data-mark") && !quiet) flash(child);
        continue;
      }
      if (same !== at) old.insertBefore(same, at);
      const next = same.nextSibling;
      morph(same, child, quiet);
      at = next;
    }
    while (at) {
      const next = at.nextSibling;
      at.remove();
      at = next;
    }
  }

  // What of a row is news: not that time passes, such as in the reason of a check that has failed for 12 s.
  function gist(row) {
    const copy = row.cloneNode(true);
    for (const each of copy.querySelectorAll("time")) each.remove();
    for (const each of copy.querySelectorAll(".why")) each.textContent = each.textContent.replace(/\d+/g, "");
    return copy.textContent.replace(/\s+/g, " ");
  }

  function takeRows(id, { order, html }, quiet) {
    const holder = byId(id), fresh = {};
    if (!holder) return;
    for (const row of parsed(Object.values(html || {}).join(""))) {
      const old = byId(row.id);
      if (old && old.parentNode === holder) {
        const differs = !quiet && gist(old) !== gist(row);
        morph(old, row, quiet);
        if (differs) flash(old);
      } else {
        fresh[row.id] = row;
        if (!quiet) flash(row);
      }
    }
    if (!order) return;
    const wanted = new Set(order);
    for (const row of [...holder.children]) if (!wanted.has(row.id)) row.remove();
    let at = holder.firstElementChild;
    for (const each of order) {
      const row = fresh[each] || byId(each);
      if (row === at) at = at.nextElementSibling;
      else if (row) holder.insertBefore(row, at);
    }
  }

  function take({ full, parts, rows }) {
    for (const [id, html] of Object.entries(parts)) {
      const old = byId(id), [fresh] = parsed(html);
      if (old && fresh) morph(old, fresh, full);
    }
    for (const [id, table] of Object.entries(rows)) takeRows(id, table, full);
    const word = document.querySelector("#overview-part .badge");
    if (word) document.title = word.textContent.replace(/^\W+/, "").trim() + " – discovery";
    ages();
    if (full && asked) {
      asked = false;
      said.textContent = byId("found-part").textContent;
    }
  }

  // Ages

  function age(seconds) {
    for (const [unit, size] of [["d", 86400], ["h", 3600], ["min", 60]])
      if (seconds >= 2 * size) return Math.floor(seconds / size) + " " + unit;
    return Math.floor(seconds) + " s";
  }

  function ages() {
    for (const each of document.querySelectorAll("time[data-age]")) {
      const moment = new Date(each.dateTime), seconds = (Date.now() - moment) / 1000;
      if (!each.title) each.title = each.textContent;
      const told = seconds < 0 ? "in " + age(-seconds) : age(seconds) + (each.dataset.age ? " " + each.dataset.age : "");
      if (each.textContent !== told) each.textContent = told;
    }
  }

  // The stream

  const hello = (more) => port && port.postMessage({ query, ...more });

  function connect(found) {
    port = found;
    port.onmessage = ({ data }) => {
      clearTimeout(waiting);
      if (found !== port) return;
      if (data.state) show(data.state);
      if (data.message && data.query === query) take(data.message);
    };
    hello();
  }

  function connectAlone() {
    clearTimeout(waiting);
    const script = document.createElement("script");
    script.src = document.body.dataset.worker;
    script.onload = () => {
      const { port1, port2 } = new MessageChannel();
      self.discoveryJoin(port2);
      connect(port1);
    };
    document.head.append(script);
  }

  // A browser without shared workers, or one that cannot start them now, has a stream for each tab.
  let waiting = setTimeout(connectAlone, PATIENCE);
  try {
    const worker = new SharedWorker(document.body.dataset.worker);
    worker.onerror = connectAlone;
    connect(worker.port);
  } catch {
    connectAlone();
  }
  setInterval(hello, HEARD);
  addEventListener("pagehide", () => port && port.postMessage({ bye: true }));
  addEventListener("pageshow", (event) => event.persisted && hello({ anew: true }));

  // Search, filters, pages

  function go(wanted, replace) {
    if (state !== "live") return false;
    const url = wanted ? "/?" + wanted : "/";
    if (wanted !== query) history[replace ? "replaceState" : "pushState"](null, "", url);
    query = wanted;
    asked = true;
    hello();
    return true;
  }

  function formQuery() {
    const wanted = new URLSearchParams();
    for (const [name, value] of new FormData(form)) if (value && !(name === "changes" && value === "25")) wanted.set(name, value);
    return wanted.toString();
  }

  function fill() {
    const wanted = new URLSearchParams(query);
    for (const each of form.elements) if (each.name) each.value = wanted.get(each.name) || (each.name === "changes" ? "25" : "");
  }

  // The first key is answered at once, those that follow quickly together.
  let typing = 0, answered = 0;
  form.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => {
      answered = Date.now();
      go(formQuery(), true);
    }, Math.max(0, Math.min(TYPING, answered + TYPING - Date.now())));
  });
  form.addEventListener("submit", (event) => {
    clearTimeout(typing);
    if (go(formQuery())) event.preventDefault();
  });
  document.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-view]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || !go(new URL(link.href).search.slice(1))) return;
    event.preventDefault();
    fill();
  });
  addEventListener("popstate", () => {
    query = location.search.slice(1);
    fill();
    hello();
  });

  // Panels of plugins

  document.addEventListener("toggle", async (event) => {
    const panel = event.target;
    if (!panel.open || !panel.dataset.panel) return;
    let html = "";
    try {
      const answer = await fetch(panel.dataset.panel);
      html = answer.ok ? await answer.text() : "";
    } catch { /* the connection is lost, which the marker tells */ }
    const [fresh] = html ? parsed(html) : [];
    for (const each of [...panel.children].slice(1)) each.remove();
    if (fresh) panel.append(fresh);
    else panel.append("It cannot be asked now.");
    ages();
  }, true);

  setInterval(ages, 1000);
  ages();
})();
