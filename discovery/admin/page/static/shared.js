// One stream of events for all tabs of a browser: this runs once in a shared worker, and in each tab where there is none.
"use strict";
(() => {
  const MOST_VIEWS = 16, AGAIN = 3000, GONE = 150000, PATIENCE = 1000;
  const tabs = new Map(); // port -> {query, heard}
  let source = null, opening = 0, state = "connecting";

  const tell = (port, message) => port.postMessage(message);
  const tellAll = (now) => {
    state = now;
    for (const port of tabs.keys()) tell(port, { state });
  };

  function open() {
    opening = 0;
    if (source) source.close();
    source = null;
    const wanted = [...new Set([...tabs.values()].map((tab) => tab.query))].slice(0, MOST_VIEWS);
    if (!wanted.length) return;
    const mine = new EventSource("/stream?" + wanted.map((each) => "view=" + encodeURIComponent(each)).join("&"));
    let names = [];
    source = mine;
    mine.addEventListener("hello", (event) => {
      names = JSON.parse(event.data).views;
      tellAll("live");
    });
    mine.onmessage = (event) => {
      const message = JSON.parse(event.data);
      for (const [port, tab] of tabs)
        if (names[wanted.indexOf(tab.query)] === message.view) tell(port, { query: tab.query, message });
    };
    mine.onerror = async () => {
      const refused = mine.readyState === EventSource.CLOSED;
      const now = await isUnknown() ? "ended" : "lost";
      if (mine !== source || mine.readyState === EventSource.OPEN) return; // meanwhile it may have connected again
      if (state !== now) tellAll(now);
      if (refused) later(AGAIN); // in another tab somebody may log in
    };
  }

  // Whether the server does not know us any more: an event source does not tell the status of an answer.
  async function isUnknown() {
    try {
      return (await fetch("/api", { signal: AbortSignal.timeout(PATIENCE) })).status === 401;
    } catch {
      return false;
    }
  }

  function later(wait) {
    clearTimeout(opening);
    opening = setTimeout(open, wait);
  }

  function join(port) {
    port.onmessage = ({ data }) => {
      const before = tabs.get(port);
      if (data.bye) tabs.delete(port);
      else tabs.set(port, { query: data.query, heard: Date.now() });
      if (!before) tell(port, { here: true });
      if (data.bye || !before || before.query !== data.query || data.anew) later(5);
    };
    if (port.start) port.start();
  }

  setInterval(() => {
    let gone = 0;
    for (const [port, tab] of tabs) if (Date.now() - tab.heard > GONE && tabs.delete(port)) gone += 1;
    if (gone) later(0);
  }, GONE / 5);

  if (typeof SharedWorkerGlobalScope !== "undefined") self.onconnect = (event) => join(event.ports[0]);
  else self.discoveryJoin = join;
})();
