/**
 * What the page does: listens to the events, draws each snapshot, and connects
 * again by itself when it is cut off.
 *
 * Data becomes text and attributes, never markup. It runs as it stands here, in
 * any browser of the last years, under a policy that allows nothing but itself.
 * Time there is the browser's own.
 */
export const script = String.raw`"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const svgNamespace = "http://www.w3.org/2000/svg";
  const seconds = 60;

  // Text ------------------------------------------------------------------------

  const none = "–";
  const rate = (n) => n >= 10 ? String(Math.round(n)) : n.toFixed(1);
  // What is not all is never rounded up to all.
  const percent = (share) =>
    share === null ? none : share === 1 ? "100 %" : (Math.floor(share * 1000) / 10).toFixed(1) + " %";
  const millis = (ms) =>
    ms === null ? none
    : ms < 1 ? ms.toFixed(2) + " ms"
    : ms < 10 ? ms.toFixed(1) + " ms"
    : ms < 1000 ? Math.round(ms) + " ms"
    : (ms / 1000).toFixed(ms < 10000 ? 1 : 0) + " s";
  const ago = (ms) => {
    const s = Math.floor(ms / 1000);
    return s < 60 ? s + " s" : s < 3600 ? Math.floor(s / 60) + " min" : Math.floor(s / 3600) + " h";
  };
  const short = (address) => address.replace(/^tcp:\/\//, "");
  /** Names without what all of them begin with, up to their last dot. */
  const localTo = (names) => {
    const [first] = names;
    let size = first.lastIndexOf(".") + 1;
    while (size > 0 && !names.every((name) => name.length > size && name.startsWith(first.slice(0, size)))) {
      size = first.slice(0, size - 1).lastIndexOf(".") + 1;
    }
    return (name) => name.slice(size);
  };
  /** Long addresses without what all of them end with, from a dot or a colon on. */
  const shortIn = (addresses) => {
    const names = addresses.map(short);
    let end = names.length > 1 && names.some((name) => name.length > 24) ? names[0].replace(/^[^.:]*/, "") : "";
    while (!names.every((name) => name.endsWith(end))) end = end.replace(/^.[^.:]*/, "");
    return (address) => end === "" ? short(address) : short(address).slice(0, -end.length) + "…";
  };
  const toneOfSuccess = (share) => share === null ? "plain" : share >= 0.999 ? "good" : share >= 0.95 ? "fair" : "bad";
  const toneOfState = (state) =>
    state === "Closed" ? "good" : state === "Open" || state === "ForcedOpen" ? "bad" : "fair";

  // Elements --------------------------------------------------------------------

  const el = (tag, attributes, children) => {
    const node = document.createElement(tag);
    for (const name in attributes || {}) node.setAttribute(name, attributes[name]);
    for (const child of children || []) node.append(child);
    return node;
  };
  const svg = (width, height, label, paths) => {
    const node = document.createElementNS(svgNamespace, "svg");
    node.setAttribute("viewBox", "0 0 " + width + " " + height);
    node.setAttribute("preserveAspectRatio", "none");
    node.setAttribute("role", "img");
    node.setAttribute("aria-label", label);
    for (const name of paths) {
      const path = document.createElementNS(svgNamespace, "path");
      path.setAttribute("class", name);
      node.append(path);
    }
    return node;
  };
  const say = (node, text) => {
    if (node.textContent !== text) node.textContent = text;
  };
  /** A name that may be cut in its middle: its end tells it from its neighbours. */
  const nameIn = (node) => {
    const head = el("span", { class: "head" }), tail = el("span", { class: "tail" });
    node.append(head, tail);
    return (text) => {
      say(head, text.slice(0, -10));
      say(tail, text.slice(-10));
    };
  };
  const set = (node, name, value) => {
    if (value === null) node.removeAttribute(name);
    else if (node.getAttribute(name) !== value) node.setAttribute(name, value);
  };

  /** Keeps one child per item, in their order; what stays is only changed. */
  const list = (parent, make) => {
    let rows = new Map();
    return (items, keyOf) => {
      const next = new Map();
      items.forEach((item, i) => {
        const key = keyOf(item);
        const row = rows.get(key) || make(item);
        next.set(key, row);
        rows.delete(key);
        row.update(item);
        if (parent.children[i] !== row.node) parent.insertBefore(row.node, parent.children[i] || null);
      });
      for (const row of rows.values()) row.node.remove();
      rows = next;
    };
  };

  // Lines -----------------------------------------------------------------------

  /** Seconds are right-aligned: the last is at the right edge. */
  const offset = (values) => seconds - values.length;

  /** Logarithmic, because a timeout of seconds would flatten everything else: 0.1 ms at the bottom, 10 s at the top. */
  const heightOf = (ms, height) => {
    const share = (Math.log10(Math.max(ms, 0.1)) + 1) / 5;
    return height - Math.min(1, Math.max(0.04, share)) * height;
  };

  const sparkline = () => {
    const height = 20;
    const node = svg(seconds, height, "", ["band", "p99", "ticks"]);
    const [band, p99, ticks] = node.children;
    return {
      node,
      update: (history, now) => {
        const from = offset(history.p99Millis);
        let upper = "", lower = "", area = "", line = "";
        const close = () => {
          if (upper !== "") area += "M" + upper.slice(1) + lower + "Z";
          upper = lower = "";
        };
        history.p99Millis.forEach((ms, i) => {
          if (ms === null) return close();
          const x = from + i;
          const high = heightOf(ms, height).toFixed(1);
          const low = heightOf(history.p50Millis[i], height).toFixed(1);
          line += (upper === "" ? "M" : "L") + x + " " + high + "L" + (x + 1) + " " + high;
          upper += "L" + x + " " + high + "L" + (x + 1) + " " + high;
          lower = "L" + (x + 1) + " " + low + "L" + x + " " + low + lower;
        });
        close();
        set(band, "d", area);
        set(p99, "d", line);
        set(ticks, "d", history.failed.map((n, i) => n > 0 ? "M" + (from + i) + " " + height + "v2h1v-2z" : "").join(""));
        const known = history.p99Millis.filter((ms) => ms !== null);
        set(node, "aria-label", "p99 now " + millis(now) + ", at most " + millis(known.length ? Math.max(...known) : null) +
          " in the last minute");
      }
    };
  };

  const bars = () => {
    const height = 40;
    const node = svg(seconds, height, "", ["bars", "bars-failed"]);
    const [answered, failed] = node.children;
    return {
      node,
      update: (history, highest) => {
        const from = offset(history.ended);
        const scale = (height - 2) / Math.max(1, highest);
        let good = "", bad = "";
        history.ended.forEach((ended, i) => {
          if (ended === 0) return;
          const x = (from + i + 0.1).toFixed(1);
          const badHeight = history.failed[i] * scale;
          // Few calls beside a part with many are seen too.
          const goodHeight = ended > history.failed[i] ? Math.max(1, ended * scale - badHeight) : 0;
          if (goodHeight > 0) good += "M" + x + " " + height + "v-" + goodHeight.toFixed(1) + "h.8V" + height + "z";
          if (badHeight > 0) {
            // What failed is seen, be it ever so little.
            const seen = Math.max(2, badHeight);
            bad += "M" + x + " " + (height - goodHeight).toFixed(1) + "v-" + seen.toFixed(1) + "h.8v" + seen.toFixed(1) + "z";
          }
        });
        set(answered, "d", good);
        set(failed, "d", bad);
        const all = history.ended.reduce((sum, n) => sum + n, 0);
        set(node, "aria-label", all + " calls in the last minute, " + history.failed.reduce((sum, n) => sum + n, 0) + " failed");
      }
    };
  };

  // Tables ----------------------------------------------------------------------

  const table = (caption, columns, make) => {
    const body = el("tbody", { role: "rowgroup" });
    const heads = columns.map((column) => {
      const head = el("th", { scope: "col", role: "columnheader" });
      head.textContent = column;
      return head;
    });
    const title = el("caption", { class: "unseen" });
    title.textContent = caption;
    const node = el("table", { role: "table" }, [
      title,
      el("thead", { role: "rowgroup" }, [el("tr", { role: "row" }, heads)]),
      body
    ]);
    return { node, update: list(body, make) };
  };

  const cell = (label, className) => {
    const node = el("td", { role: "cell" });
    if (label) node.dataset.label = label;
    if (className) node.className = className;
    return node;
  };

  /** The figures that methods and endpoints share, as cells. */
  const figures = () => {
    const inFlight = cell("in flight"), perSecond = cell("/s"), success = cell("success");
    const p50 = cell("p50"), p99 = cell("p99"), line = cell("", "line");
    const spark = sparkline();
    line.append(spark.node);
    return {
      cells: [inFlight, perSecond, success, p50, p99, line],
      update: (item, limit) => {
        say(inFlight, limit === null ? String(item.inFlight) : item.inFlight + " / " + Math.round(limit.limit) +
          (limit.queued > 0 ? " +" + limit.queued : ""));
        say(perSecond, rate(item.rate));
        say(success, percent(item.success));
        set(success, "data-tone", toneOfSuccess(item.success));
        say(p50, millis(item.p50Millis));
        say(p99, millis(item.p99Millis));
        spark.update(item.history, item.p99Millis);
      }
    };
  };

  const counted = (reason) =>
    reason.reason + " ×" + reason.count + (reason.agoMillis < 10000 ? "" : ", " + ago(reason.agoMillis) + " ago");
  const reasonOf = (item) => item.reasons.slice(0, 1).map(counted).join("");
  const reasonsOf = (item) => item.reasons.map(counted).join("\n");

  /** Rows before the well ones of a long table are folded away. */
  const few = 12;
  const well = 3;

  /** Few rows stay where they are; of many, those in trouble come first, and all of them are shown. */
  const folding = (table, what, rankOf) => {
    const button = el("button", { type: "button", class: "more", "aria-expanded": "false" });
    let latest = [], isOpen = false, keyOf;
    const draw = () => {
      const items = latest.length > few ? latest.slice().sort((a, b) => rankOf(a) - rankOf(b)) : latest;
      const shown = Math.max(few, items.filter((item) => rankOf(item) < well).length);
      const rest = Math.max(0, items.length - shown);
      table.update(isOpen ? items : items.slice(0, shown), keyOf);
      button.hidden = rest === 0;
      say(button, isOpen ? "show fewer" : rest + " more " + what + ", none in trouble");
      set(button, "aria-expanded", String(isOpen));
    };
    button.addEventListener("click", () => {
      isOpen = !isOpen;
      draw();
    });
    const node = el("div", {}, [table.node, button]);
    return {
      node,
      update: (items, key) => {
        latest = items;
        keyOf = key;
        node.hidden = items.length === 0;
        draw();
      }
    };
  };
  const rankOfSuccess = (success) => ({ bad: 1, fair: 2 })[toneOfSuccess(success)] || well;
  const rankOfMethod = ({ method }) => rankOfSuccess(method.success);
  const rankOfEndpoint = ({ endpoint: { breaker, connection, success } }) =>
    breaker !== null && breaker.state !== "Closed" ? (toneOfState(breaker.state) === "bad" ? 0 : 1)
    : connection === "backoff" ? 1 : rankOfSuccess(success);

  const methodRow = ({ method }) => {
    const name = el("span", { class: "name" });
    const sayName = nameIn(name);
    const sub = el("span", { class: "sub" });
    const shared = figures();
    const node = el("tr", { role: "row", "data-method": method.name }, [cell(), ...shared.cells]);
    node.firstChild.append(name, sub);
    name.title = method.name;
    return {
      node,
      update: ({ method, called }) => {
        sayName(called(method.name));
        shared.update(method, null);
        say(sub, reasonOf(method));
        set(node.firstChild, "title", reasonsOf(method) || null);
      }
    };
  };

  const subOf = (endpoint) => {
    const { breaker, connection } = endpoint;
    if (breaker !== null && breaker.state !== "Closed") {
      const probe = breaker.probeInMillis === null ? ""
        : breaker.probeInMillis === 0 ? ", may probe" : ", probe in " + (breaker.probeInMillis / 1000).toFixed(1) + " s";
      return breaker.why + ", for " + ago(breaker.notClosedForMillis) + probe;
    }
    const link = connection === null || connection === "open" ? "" : "connection " + connection;
    return [link, reasonOf(endpoint)].filter((text) => text !== "").join(", ");
  };

  /** Where a row is on the page. */
  const idOf = (part, endpoint) => ["endpoint", part, endpoint.target, endpoint.address].join(" ").replace(/\s/g, "_");

  const endpointRow = ({ endpoint, part }) => {
    const name = el("span", { class: "name address" });
    const sayName = nameIn(name);
    const sub = el("span", { class: "sub" });
    const badge = el("span", { class: "badge" });
    const state = cell("", "state");
    const shared = figures();
    const node = el("tr", {
      role: "row",
      class: "endpoint",
      id: idOf(part, endpoint),
      "data-endpoint": endpoint.address
    }, [cell(), state, ...shared.cells]);
    node.firstChild.append(name, sub);
    state.append(badge);
    return {
      node,
      update: ({ endpoint, called }) => {
        const { breaker, target } = endpoint;
        sayName(called(endpoint.address));
        name.title = (target === null ? "" : target + " at ") + endpoint.address;
        say(badge, breaker === null ? "no breaker" : breaker.state);
        set(badge, "data-tone", breaker === null ? "plain" : toneOfState(breaker.state));
        set(badge, "title", breaker === null ? null : "for " + ago(breaker.forMillis) + (breaker.why ? ": " + breaker.why : ""));
        set(node, "data-state", breaker === null ? "" : breaker.state);
        shared.update(endpoint, endpoint.limit);
        const text = subOf(endpoint);
        say(sub, text);
        set(node.firstChild, "title", [text, reasonsOf(endpoint)].filter((line) => line !== "").join("\n") || null);
      }
    };
  };

  // Parts -----------------------------------------------------------------------

  const budgetRow = () => {
    const meter = el("meter", { min: "0" });
    const text = el("span");
    let most = 1;
    return {
      node: el("li", {}, [meter, text]),
      update: (budget) => {
        most = Math.max(most, budget.balance);
        meter.max = most;
        meter.value = budget.balance;
        const words = budget.name + ": " + budget.balance.toFixed(1) + " tokens left, " + budget.granted + " granted, " +
          budget.refused + " refused";
        meter.setAttribute("aria-label", words);
        say(text, words);
      }
    };
  };

  const policyRow = () => {
    const name = el("b"), kind = el("span", { class: "dim" }), state = el("span", { class: "badge" });
    const figures = el("span", { class: "figures" });
    return {
      node: el("li", {}, [name, kind, state, figures]),
      update: (policy) => {
        say(name, policy.name);
        say(kind, policy.kind);
        state.hidden = policy.state === null;
        say(state, policy.state || "");
        set(state, "data-tone", toneOfState(policy.state));
        say(figures, Object.entries(policy.figures).map(([key, value]) =>
          key + " " + (typeof value === "number" ? Number(value.toFixed(3)) : value)).join("  "));
      }
    };
  };

  const tile = (label) => {
    const name = el("dt"), value = el("dd");
    name.textContent = label;
    return { node: el("div", {}, [name, value]), value };
  };

  const partIdOf = (name) => ("part " + name).replace(/\s/g, "_");

  const partCard = (part) => {
    const title = el("h2");
    const about = el("span", { class: "dim" });
    title.textContent = part.name;
    const tiles = ["success", "calls/s", "p50", "p99", "attempts", "in flight"].map(tile);
    const [success, perSecond, p50, p99, attempts, inFlight] = tiles.map((each) => each.value);
    const chart = bars();
    const good = el("span"), bad = el("span");
    good.append(el("i"), "answered");
    bad.append(el("i", { class: "failed" }), "failed");
    const legend = el("figcaption", {}, [good, bad, "calls per second, last minute"]);
    const shared = ["in flight", "/s", "success", "p50", "p99", "last minute"];
    const endpoints = folding(
      table("endpoints of " + part.name, ["endpoint", "breaker"].concat(shared), endpointRow), "endpoints", rankOfEndpoint);
    endpoints.node.querySelectorAll("th")[1].className = "state";
    const methods = folding(table("methods of " + part.name, ["method"].concat(shared), methodRow), "methods", rankOfMethod);
    const served = folding(
      table("methods served by " + part.name, ["served method"].concat(shared), methodRow), "methods", rankOfMethod);
    const budgetList = el("ul", { class: "budgets" });
    const budgets = list(budgetList, budgetRow);
    const summary = el("summary");
    const policyList = el("ol", { class: "policies" });
    const policies = list(policyList, policyRow);
    const details = el("details", {}, [summary, policyList]);
    const now = el("dl", { class: "now" }, tiles.map((each) => each.node));
    const figure = el("figure", { class: "chart" }, [chart.node, legend]);
    const node = el("section", {
      class: "card part",
      id: partIdOf(part.name),
      "data-part": part.name,
      "aria-label": part.name
    }, [
      el("header", {}, [title, about]),
      now,
      figure,
      el("div", { class: "tables" }, [endpoints.node, methods.node, served.node]),
      budgetList,
      details
    ]);
    return {
      node,
      update: ({ part, highest }) => {
        const { calls } = part;
        say(about, calls.total + " calls, " + calls.failed + " failed");
        say(success, percent(calls.success));
        set(success, "data-tone", toneOfSuccess(calls.success));
        say(perSecond, rate(calls.rate));
        say(p50, millis(calls.p50Millis));
        say(p99, millis(calls.p99Millis));
        say(attempts, calls.attempts === null ? none : calls.attempts.toFixed(2));
        say(inFlight, String(calls.inFlight));
        chart.update(calls.history, highest);
        const called = shortIn(part.endpoints.map((endpoint) => endpoint.address));
        endpoints.update(part.endpoints.map((endpoint) => ({ endpoint, part: part.name, called })),
          ({ endpoint }) => endpoint.target + "@" + endpoint.address);
        const named = (methods) => {
          const called = methods.length === 0 ? null : localTo(methods.map((method) => method.name));
          return methods.map((method) => ({ method, called }));
        };
        methods.update(named(part.methods), ({ method }) => method.name);
        // One that nobody has earned or spent anything in says nothing.
        const used = part.budgets.filter((budget) => budget.balance + budget.granted + budget.refused > 0);
        budgets(used, (budget) => budget.name);
        // Who only serves makes no calls.
        const isServer = part.methods.length === 0 && part.served.length > 0;
        for (const each of [now, figure, about]) each.hidden = isServer;
        served.update(named(part.served), ({ method }) => method.name);
        details.hidden = part.policies.length === 0;
        say(summary, part.policies.length + (part.policies.length === 1 ? " policy" : " policies"));
        // Several may have one name: those of methods with slots of their own.
        const seen = new Map();
        policies(part.policies, (policy) => {
          const key = policy.kind + " " + policy.name;
          seen.set(key, (seen.get(key) || 0) + 1);
          return key + " " + seen.get(key);
        });
      }
    };
  };

  const partsNode = byId("parts");
  const emptyNode = byId("empty");
  const parts = list(partsNode, ({ part }) => partCard(part));

  // Trouble ---------------------------------------------------------------------

  /** What is wrong with a part, the worst first. */
  const troubleOf = (part) => {
    const called = shortIn(part.endpoints.map((endpoint) => endpoint.address));
    const open = part.endpoints.filter(({ breaker }) => breaker !== null && breaker.state !== "Closed")
      .sort((a, b) => rankOfEndpoint({ endpoint: a }) - rankOfEndpoint({ endpoint: b }) ||
        b.breaker.notClosedForMillis - a.breaker.notClosedForMillis);
    const at = (endpoint) => encodeURIComponent(idOf(part.name, endpoint));
    const circuits = open.length > 3
      ? [{
        tone: open.some(({ breaker }) => toneOfState(breaker.state) === "bad") ? "bad" : "fair",
        text: part.name + ": " + open.length + " of " + part.endpoints.length + " circuits not closed, for up to " +
          ago(Math.max(...open.map(({ breaker }) => breaker.notClosedForMillis))),
        at: at(open[0])
      }]
      : open.map((endpoint) => ({
        tone: toneOfState(endpoint.breaker.state),
        text: part.name + ": " + called(endpoint.address) + " " + endpoint.breaker.state + " for " +
          ago(endpoint.breaker.notClosedForMillis),
        at: at(endpoint)
      }));
    return toneOfSuccess(part.calls.success) !== "bad" ? circuits : [{
      tone: "bad",
      text: part.name + ": " + percent(part.calls.success) + " answered",
      at: encodeURIComponent(partIdOf(part.name))
    }].concat(circuits);
  };
  const troubleRow = () => {
    const link = el("a");
    return {
      node: el("li", {}, [link]),
      update: ({ tone, text, at }) => {
        set(link, "data-tone", tone);
        set(link, "href", "#" + at);
        say(link, text);
      }
    };
  };
  const troubles = list(byId("trouble"), troubleRow);
  let troubled = 0;
  const title = () => {
    const word = document.body.dataset.stale === undefined ? (troubled > 0 ? troubled + " in trouble" : "") : "disconnected";
    document.title = word === "" ? "holdfast" : word + " – holdfast";
  };

  const draw = (taken) => {
    emptyNode.hidden = taken.parts.length > 0;
    // One scale for all, so that they can be compared.
    const highest = Math.max(1, ...taken.parts.flatMap((part) => part.calls.history.ended));
    parts(taken.parts.map((part) => ({ part, highest })), ({ part }) => part.name);
    if (!emptyNode.hidden) partsNode.append(emptyNode);
    const trouble = taken.parts.flatMap(troubleOf);
    troubles(trouble, ({ at }) => at);
    troubled = trouble.length;
    title();
    say(byId("uptime"), "observed for " + ago(taken.uptimeMillis));
    partsNode.dataset.drawn = taken.takenAt;
  };

  // Events ----------------------------------------------------------------------

  const eventsNode = byId("events");
  const minorKinds = ["AttemptEnded", "RetryScheduled", "HedgeStarted", "Rejected", "Repicked", "SessionChanged"];
  const maxLines = 50;
  const recent = new Map();

  /** From the server's monotonic clock to the wall's. */
  let originMillis = 0;
  const two = (n) => String(n).padStart(2, "0");
  const clockOf = (date) => date.toTimeString().slice(0, 8);
  const dayOf = (date) => date.getFullYear() + "-" + two(date.getMonth() + 1) + "-" + two(date.getDate());
  let heardOfMillis = -Infinity;

  const happened = (event, isPast) => {
    byId("quiet")?.remove();
    const key = [event.part, event.kind, event.about, event.text].join("\n");
    const date = new Date(originMillis + event.atMillis);
    heardOfMillis = Math.max(heardOfMillis, date.getTime());
    const today = dayOf(new Date());
    const when = dayOf(date) === today ? clockOf(date) : dayOf(date).slice(5) + " " + clockOf(date).slice(0, 5);
    const known = recent.get(key);
    if (known !== undefined) {
      // The same again, shortly after: one line, counted, and nothing to look up for.
      known.times++;
      known.node.classList.remove("new");
      say(known.node.querySelector(".when"), when);
      say(known.node.querySelector(".times"), "×" + known.times);
      if (eventsNode.firstChild !== known.node) eventsNode.prepend(known.node);
      return;
    }
    const minor = minorKinds.includes(event.kind);
    const spans = ["when", "who", "about", "text", "times"].map((name) => el("span", { class: name }));
    [when, event.part, "", event.text, ""].forEach((text, i) => spans[i].textContent = text);
    spans[0].title = dayOf(date) + " " + clockOf(date);
    nameIn(spans[2])(short(event.about.replace(/^[^@]*@/, "")));
    spans[2].title = event.about;
    const node = el("li", { class: (minor ? "minor" : "major") + (isPast ? "" : " new"), "data-tone": event.tone, "data-kind": event.kind }, spans);
    eventsNode.prepend(node);
    // Of these the order is what matters.
    if (event.kind !== "Transition" && event.kind !== "Note") recent.set(key, { node, times: 1 });
    const same = eventsNode.querySelectorAll(minor ? ".minor" : ".major");
    if (same.length > maxLines) {
      const oldest = same[same.length - 1];
      oldest.remove();
      for (const [key, line] of recent) if (line.node === oldest) recent.delete(key);
    }
    if (event.kind === "Transition" && !isPast) say(byId("announcer"), event.part + ", " + event.about + ": " + event.text);
  };
  // A line that has been there for a while is history: the same again is a new one.
  window.setInterval(() => recent.clear(), 10000);

  byId("minor").addEventListener("change", (change) => {
    eventsNode.className = change.target.checked ? "" : "major";
  });
  eventsNode.className = "major";

  // Failed calls ----------------------------------------------------------------

  const callRow = () => {
    const when = el("span", { class: "when" }), what = el("span"), log = el("pre");
    return {
      node: el("li", {}, [el("details", {}, [el("summary", {}, [when, what]), log])]),
      update: ({ endedAt, traceId, text }) => {
        const end = text.indexOf("\n");
        say(when, clockOf(new Date(endedAt)));
        say(what, end < 0 ? text : text.slice(0, end));
        say(log, (end < 0 ? "" : text.slice(end + 1)) + (traceId === null ? "" : "\ntrace " + traceId));
      }
    };
  };
  const calls = list(byId("calls"), callRow);
  let isAsking = false;
  const ask = async () => {
    // Who reads one does not want it to move.
    if (isAsking || document.querySelector("#calls details[open]") !== null) return;
    isAsking = true;
    try {
      const failed = await (await fetch("holdfast/calls")).json();
      byId("failed").hidden = failed === null || failed.length === 0;
      calls(failed || [], ({ endedAt, text, traceId }) => [endedAt, traceId, text].join("\n"));
    } catch (error) {
      // The events say that the server is gone.
    }
    isAsking = false;
  };

  // The connection --------------------------------------------------------------

  const statusNode = byId("status");
  const status = (tone, text) => {
    set(statusNode, "data-tone", tone);
    say(statusNode, text);
  };
  const patience = 20000;
  const longestWait = 8;
  let failedBefore = 0;
  let source, failures = 0, waiting, heardAt = window.performance.now();

  const heard = () => {
    heardAt = window.performance.now();
    failures = 0;
    delete document.body.dataset.stale;
    status("good", "live");
    title();
  };
  const connect = () => {
    status("fair", "connecting");
    heardAt = window.performance.now();
    source = new EventSource("holdfast/events");
    source.addEventListener("snapshot", (message) => {
      heard();
      const taken = JSON.parse(message.data);
      originMillis = Date.parse(taken.takenAt) - taken.atMillis;
      draw(taken);
      // Only where something fails there is something to ask.
      const failed = taken.parts.reduce((sum, part) => sum + part.calls.failed, 0);
      if (failed !== failedBefore) ask();
      failedBefore = failed;
    });
    // What happened before, or while this page was cut off.
    source.addEventListener("earlier", (message) => {
      const until = heardOfMillis;
      for (const event of JSON.parse(message.data)) {
        if (originMillis + event.atMillis > until + 1) happened(event, true);
      }
    });
    source.addEventListener("event", (message) => {
      heard();
      happened(JSON.parse(message.data));
    });
    source.addEventListener("lost", (message) => {
      const { count } = JSON.parse(message.data);
      const atMillis = new Date().getTime() - originMillis;
      happened({ part: "", kind: "Lost", about: "this page", text: "too slow for " + count + " events", tone: "fair", atMillis });
    });
    source.addEventListener("error", lost);
  };
  const lost = () => {
    source.close();
    document.body.dataset.stale = "";
    title();
    let left = Math.min(longestWait, 2 ** failures++);
    window.clearInterval(waiting);
    const tick = () => {
      if (left > 0) return status("bad", "disconnected, again in " + left-- + " s");
      window.clearInterval(waiting);
      connect();
    };
    tick();
    waiting = window.setInterval(tick, 1000);
  };
  // A server that is frozen closes nothing.
  window.setInterval(() => {
    if (source.readyState !== 2 && window.performance.now() - heardAt > patience) lost();
  }, 1000);
  connect();
})();
`
