// ---- The parts of the page.
const problems = [];
const problem = (severity, words) => problems.push({ severity, words });
const GLYPHS = { good: "✓ ", warn: "! ", bad: "✗ " };
const worded = (severity, words) => text(GLYPHS[severity] + words, severity);

const showClusters = clusters => {
  const rows = Object.entries(clusters).flatMap(([name, cluster]) => {
    if (!cluster.healthy) problem("bad", "etcd cluster " + name + " does not answer");
    else if (!cluster.members.some(member => member.leader && member.state === "healthy")) problem("warn", "etcd cluster " + name + " has no known leader");
    return cluster.members.map((member, i) => ({ key: name + " " + member.endpoint, first: !i, cells: memberCells(name, cluster, member, i) }));
  });
  table("clusters", ["Cluster", "Member", "State", "-Role", "#Latency", "-", "Database of its quota", "-Alarms", "-Version", "-#Revision",
    "-Lanes: calls / connections", "-Trouble"], rows, "none");
};
const memberCells = (name, cluster, member, i) => {
  const well = member.state === "healthy", leads = well && member.leader, words = member.state.replace("_", " ");
  if (!well && member.state !== "learner") problem(cluster.healthy ? "warn" : "bad", "member " + member.endpoint + " of " + name + " is " + words +
    (member.error ? ": " + member.error : ""));
  member.alarms.forEach(alarm => problem("bad", "member " + member.endpoint + " of " + name + " has an alarm: " + alarm));
  const share = member.db_quota_bytes ? member.db_size_bytes / member.db_quota_bytes : undefined;
  const fullness = share >= 0.95 ? "bad" : share >= 0.8 ? "warn" : "";
  if (fullness) problem(fullness, "the database of " + member.endpoint + " of " + name + " is " + percent(share) + " full");
  const lanes = ["light", "heavy", "watch"].map(lane => lane + " " + member.lanes[lane].calls + "/" + member.lanes[lane].connections);
  return [
    text(i ? "" : name), text((leads ? "★ " : "") + member.endpoint.replace(/^https?:\/\//, "")),
    worded(well ? "good" : member.state === "unknown" || member.state === "learner" ? "warn" : "bad", words),
    wide(text(leads ? "leader" : member.state === "learner" ? "learner" : "follower", leads ? "" : "muted")),
    number(milliseconds(member.latency_ms)), wide(line(remember("latency " + name + member.endpoint, member.latency_ms))),
    share === undefined ? text(bytes(member.db_size_bytes)) : bar(share, bytes(member.db_size_bytes) + " of " + bytes(member.db_quota_bytes), fullness),
    wide(member.alarms.length ? worded("bad", member.alarms.join("; ")) : text("none", "muted")),
    wide(text(member.version || "–")), wide(number(i ? "" : cluster.revision)), wide(text(lanes.join(" · "))),
    wide(text(member.error || "–", member.error ? "bad wrap" : "muted")),
  ];
};

const showRequests = (calls, figures) => {
  const asked = calls.filter(({ calls, open }) => calls || open);
  const rows = asked.map((total, i) => {
    const first = !i || asked[i - 1].cluster !== total.cluster;
    const key = total.cluster + " " + total.class, mean = meanMilliseconds("class " + key, total.calls, total.seconds);
    const each = { calls: perSecond("calls " + key, total.calls), refused: perSecond("refused " + key, total.refused),
      failed: perSecond("failed " + key, total.failed), bytes: perSecond("bytes " + key, total.bytes) };
    for (const name in each) figures[name] += each[name];
    return { key, first, cells: [
      text(first ? total.cluster : ""), text(total.class.replace(/_/g, " ")), wide(line(remember("calls " + key, each.calls))), number(rate(each.calls)),
      wide(number(milliseconds(mean))), wide(number(count(total.open))), wide(number(each.bytes ? bytes(each.bytes) : "–")),
      number(rate(each.refused), each.refused ? "warn" : ""), wide(number(count(total.refused))), wide(number(count(total.would_refuse))),
      number(rate(each.failed), each.failed ? "bad" : ""), wide(number(count(total.failed))), wide(number(count(total.calls))),
    ] };
  });
  table("requests", ["Cluster", "Class", "-", "#Calls/s", "-#Mean", "-#Open", "-#Bytes/s", "#Refused/s", "-#Refused", "-#Would refuse", "#Failed/s", "-#Failed", "-#Calls"],
    rows, "no calls yet");
};

const showQueues = (clusters, figures) => {
  const rows = clusters.flatMap(({ name, queues }) => queues.map((queue, i) => {
    const key = name + " " + queue.queue, words = queue.queue.replace("queues.", "");
    const mean = meanMilliseconds("queue " + key, queue.calls, queue.waited_seconds), share = queue.limit ? queue.running / queue.limit : 0;
    figures.running += queue.running;
    figures.waiting += queue.waiting;
    if (queue.waiting) problem("warn", several(queue.waiting, "call waits", "calls wait") + " in the queue of " + words + " of " + name);
    return { key: name + " " + words, first: !i, cells: [
      text(i ? "" : name), text(words), bar(share, queue.running + " of " + queue.limit, share >= 1 ? "warn" : ""),
      number(count(queue.waiting), queue.waiting ? "warn" : ""), number(mean >= 0.1 ? milliseconds(mean) : "–", mean >= 100 ? "warn" : ""),
    ] };
  }));
  table("queues", ["Cluster", "Queue", "At etcd", "#Waiting", "#Wait"], rows, "none");
};

const showProtections = ({ mode, memory, protections }) => {
  $("#protections small").textContent = "answers held: " + (memory.used ? bytes(memory.used) : "none") + " of " + bytes(memory.limit);
  if (mode !== "enforce") problem("warn", "protections are " + (mode === "off" ? "off" : "only observing"));
  const rows = protections.map(standing => {
    const { protection, mode, switched } = standing, refused = perSecond("protection " + protection, standing.refused);
    if (refused) problem("warn", protection + " refuses " + rate(refused) + " calls a second");
    if (switched) problem("warn", protection + " was switched to " + mode + " by hand");
    return { key: protection, cells: [
      text(protection + (switched ? " (by hand)" : ""), mode === "off" ? "muted" : ""), protection === "memory" ? text(mode) : protectionSwitch(standing), wide(number(count(standing.delayed))),
      number(count(standing.refused), refused ? "warn" : ""), wide(number(count(standing.would_delay))), wide(number(count(standing.would_refuse))),
    ] };
  });
  table("protections", ["Protection", "Mode", "-#Delayed", "#Refused", "-#Would delay", "-#Would refuse"], rows, "none");
};

const showMirror = ({ mode, clusters }, figures) => {
  const names = Object.entries(clusters);
  const told = names.map(([name, mirror]) => {
    figures.answers += perSecond("answers " + name, mirror.answers);
    figures.watchers += mirror.watchers;
    if (mode !== "off" && !mirror.live) problem("warn", "nothing of " + name + " is answered from memory: the feed is not followed");
    return name + ": " + (mirror.live ? "✓ followed to revision " + mirror.revision + ", " + mirror.behind + " behind" : "✗ not followed") + ", " +
      (bytes(mirror.memory.used) + " of " + bytes(mirror.memory.limit)) + ", " + count(mirror.answers) + " answers";
  });
  $("#mirror p").textContent = mode === "off" ? "The mirror is off." : (mode === "observe" ? "Only observing. " : "") + told.join(" · ");
  const rows = names.flatMap(([name, mirror]) => mirror.collections.map((held, i) => {
    const key = name + " " + held.collection, asked = held.hits + held.misses;
    const state = held.why ? text("! " + held.state + ": " + held.why, "warn wrap") : text((held.state === "ready" ? "✓ " : "… ") + held.state, held.state === "ready" ? "good" : "");
    return { key, first: !i, cells: [
      wide(text(i ? "" : name)), text(held.collection, "wrap"), collectionSwitch(name, held), state, wide(text(held.tier || "–")), wide(number(count(held.keys))),
      number(bytes(held.bytes)), wide(number(held.revision ?? "–")), wide(number(held.tier ? mirror.behind : "–")), wide(line(remember("hits " + key, perSecond("hits " + key, held.hits)))),
      number(count(held.hits)), wide(number(count(held.misses))), wide(number(asked ? percent(held.hits / asked) : "–")), wide(number(span(held.idle_seconds) + " ago")),
    ] };
  }));
  table("mirror", ["-Cluster", "Collection", "Use", "State", "-Tier", "-#Keys", "#Memory", "-#Revision", "-#Behind", "-", "#Hits", "-#Passed on", "-#Share", "-#Read"],
    rows, "nothing was worth it yet");
};

const showWatches = (clusters, calls) => {
  const open = name => calls.filter(total => total.cluster === name && total.class === "watch").reduce((sum, total) => sum + total.open, 0);
  const rows = Object.entries(clusters).map(([name, mirror]) => {
    const events = perSecond("events " + name, mirror.watch_events);
    return { key: name, cells: [text(name), number(count(open(name))), number(count(mirror.watchers)), line(remember("events " + name, events)),
      number(rate(events)), wide(number(count(mirror.watch_handovers))), wide(number(count(mirror.watch_returns)))] };
  });
  table("watches", ["Cluster", "#Streams", "#From memory", "", "#Events/s", "-#Gone to etcd", "-#Come back"], rows, "none");
};

const showLoad = ({ prefixes, clients, shapes, objects }) => {
  const load = ranked => [bar(ranked.share, percent(ranked.share)), number(count(ranked.cost)),
    wide(number(count(ranked.requests))), wide(number(bytes(ranked.bytes)))];
  const heads = ["Share of cost", "#Cost", "-#Requests", "-#Bytes"];
  const named = name => name || "(no key)";
  const caller = ({ name, address }) => name === address ? name : name + " (" + address + ")";
  table("load", ["Prefix", ...heads, "-Cluster"], prefixes.map(ranked => ({ key: ranked.cluster + " " + ranked.name,
    cells: [text(named(ranked.name), "wrap"), ...load(ranked), wide(text(ranked.cluster, "muted"))] })), "nothing in the last minute");
  table("clients", ["Client", ...heads], clients.map(ranked => ({ key: caller(ranked), cells: [text(caller(ranked), "wrap"), ...load(ranked)] })),
    "nobody in the last minute");
  table("shapes", ["Shape", "Prefix", ...heads, "-Client"], shapes.map(ranked => ({ key: [ranked.cluster, ranked.prefix, ranked.client, ranked.address, ranked.shape].join(" "),
    cells: [text(ranked.shape), text(named(ranked.prefix), "wrap"), ...load(ranked), wide(text(caller({ name: ranked.client, address: ranked.address }), "muted"))] })),
    "nothing in the last minute");
  table("objects", ["Object", "#Size", "#Seen", "-Cluster"], objects.map(object => ({ key: object.cluster + " " + object.name,
    cells: [text(named(object.name), "wrap"), number(bytes(object.bytes)), number(count(object.requests)), wide(text(object.cluster, "muted"))] })),
    "none in the last minute");
};

const LEVELS = { ERROR: "bad", WARN: "warn", INFO: "good" };
const showEvents = events => table("events", ["Time", "What", "-Details"], events.slice(0, 40).map(event => ({
  key: event.at + event.message + event.details,
  cells: [text(new Date(event.at).toLocaleTimeString([], { hourCycle: "h23" }), "muted"),
    text(GLYPHS[LEVELS[event.level]] + event.message + (event.times > 1 ? " (" + event.times + " times)" : ""), LEVELS[event.level] === "good" ? "wrap" : "wrap " + LEVELS[event.level]),
    wide(text(event.details.length > 160 ? event.details.slice(0, 160) + " …" : event.details, "wrap muted"))],
})), "nothing yet");

const showRoutes = listeners => table("routes", ["Listener", "Address", "Keys", "Cluster"], listeners.flatMap(listener =>
  [...listener.routes.map(route => [route.prefix + " and below", route.cluster]), [listener.routes.length ? "all others" : "all", listener.default]]
    .map(([keys, cluster], i) => ({ key: listener.name + keys, first: !i,
      cells: [text(i ? "" : listener.name), text(i ? "" : listener.address), text(keys, "wrap"), text(cluster)] }))), "none");

const FIGURES = [["calls", "Requests/s", rate], ["running", "At etcd", count], ["waiting", "Waiting", count], ["refused", "Refused/s", rate],
  ["failed", "Failed/s", rate], ["answers", "From memory/s", rate], ["watchers", "Watchers", count], ["bytes", "Answered/s", bytes]];
const showFigures = figures => FIGURES.forEach(([name, label, format], at) => {
  const list = $("#figures");
  const box = list.children[at] || list.appendChild(make("div", { id: "figure-" + name }, make("dt", { textContent: label }), make("dd"), sparkline()));
  const shown = format(figures[name]);
  box.children[1].textContent = shown;
  box.children[1].className = figures[name] > 0 ? { waiting: "warn", refused: "warn", failed: "bad" }[name] || "" : "";
  draw(box.lastChild, remember("figure " + name, figures[name]));
});

const showVerdict = (severity, words, list) => {
  const verdict = $("#verdict"), items = list.slice(0, 8).map(({ severity, words }) => GLYPHS[severity] + words);
  if (list.length > items.length) items.push("… and " + (list.length - items.length) + " more");
  const said = [words, ...items].join("\n");
  verdict.className = severity;
  document.title = GLYPHS[severity] + "Seawall";
  // What is said again is not read out again.
  if (verdict.dataset.said === said) return;
  verdict.dataset.said = said;
  verdict.firstChild.textContent = words;
  verdict.lastChild.replaceChildren(...items.map(words => make("li", { textContent: words })));
};
const conclude = () => {
  const bad = problems.some(problem => problem.severity === "bad");
  problems.sort((a, b) => (a.severity === "bad" ? 0 : 1) - (b.severity === "bad" ? 0 : 1));
  if (!problems.length) return showVerdict("good", "✓ All is well", []);
  showVerdict(bad ? "bad" : "warn", bad ? "✗ In trouble" : "! Worth a look", problems);
};

const show = snapshot => {
  const { status, protection, mirror, top, calls, process, events, token } = snapshot;
  before = now;
  now = snapshot.at;
  asksToken = token;
  problems.length = 0;
  if (status.stopping) problem("bad", "Seawall is stopping");
  const figures = Object.fromEntries(FIGURES.map(([name]) => [name, 0]));
  const cpu = process ? perSecond("cpu", process.cpu_seconds) : 0;
  $("#about").textContent = status.version + " · up " + span(status.uptime_seconds) +
    (process ? " · " + bytes(process.resident_bytes) + " · CPU " + percent(cpu) : "");
  showClusters(status.clusters);
  showRequests(calls, figures);
  showQueues(protection.clusters, figures);
  showProtections(protection);
  showMirror(mirror, figures);
  showWatches(mirror.clusters, calls);
  showLoad(top);
  showEvents(events);
  showRoutes(status.listeners);
  showFigures(figures);
  conclude();
};

// ---- Live.
const SILENT = 5000;
let heard = Date.now();
const listen = () => {
  const source = new EventSource("/stream");
  source.onmessage = message => {
    heard = Date.now();
    document.body.classList.remove("stale");
    show(JSON.parse(message.data));
  };
  // It tries again by itself, unless it was answered with an error.
  source.onerror = () => { if (source.readyState === EventSource.CLOSED) setTimeout(listen, 2000); };
};
setInterval(() => {
  if (Date.now() - heard < SILENT) return;
  document.body.classList.add("stale");
  showVerdict("bad", "✗ Seawall does not answer, for " + span(Math.round((Date.now() - heard) / 1000)), []);
}, 1000);
listen();
