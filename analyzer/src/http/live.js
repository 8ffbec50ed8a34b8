// The live page: asks for the state every two seconds, checks when it is told to, and shows a group's stack.
const EVERY = 2000;
const SHORT = { 'definitely lost': 'definite', 'indirectly lost': 'indirect', 'possibly lost': 'possible' };
const app = document.getElementById('app');
// The token lives as long as this tab.
let token = sessionStorage.getItem('avleak-token') || '';
let chosen = 0, open = '', stack = null, busy = false, note = '', last = null, timer = 0, drawn = '';

async function ask(path, method) {
  const answer = await fetch(path, { method: method || 'GET', headers: token ? { Authorization: `Bearer ${token}` } : {}, cache: 'no-store' });
  if (answer.status === 401) throw Object.assign(new Error('token'), { needsToken: true });
  if (!answer.ok) throw new Error((await answer.text()).trim());
  return answer.json();
}

async function refresh() {
  clearTimeout(timer);
  try {
    last = await ask('/state.json');
    draw();
  } catch (error) {
    if (error.needsToken) return askForToken();
    banner('', 'No answer', 'The process has ended, or avleak has. The figures below are the last ones.', 'stale');
  }
  timer = setTimeout(refresh, EVERY);
}

function banner(kind, finding, reason, extra) {
  document.getElementById('banner').className = kind ? `banner ${kind}` : 'banner';
  document.getElementById('finding').textContent = finding;
  const text = document.getElementById('reason');
  text.textContent = reason;
  text.className = extra ? `reason ${extra}` : 'reason';
}

function askForToken() {
  banner('', 'A token is needed', 'It is in the file, or the variable, that this avleak was started with.');
  const field = h('input', { type: 'password', 'aria-label': 'Token', autocomplete: 'off' });
  const submit = (event) => {
    event.preventDefault();
    token = field.value.trim();
    sessionStorage.setItem('avleak-token', token);
    drawn = '';
    refresh();
  };
  app.replaceChildren(h('form.token', { onsubmit: submit }, field, h('button', {}, 'Show')));
  field.focus();
}

function draw() {
  const all = last.processes;
  const process = all.find((one) => one.pid === chosen) || all[0];
  document.getElementById('who').textContent = process ? `${process.process} (pid ${process.pid})` : '';
  if (!process) {
    banner('', 'No process uses FFmpeg now', 'As soon as one does it is shown here.');
    app.replaceChildren();
    drawn = '';
    return;
  }
  chosen = process.pid;
  document.title = `avleak: ${process.process}`;
  const report = process.last;
  if (report) banner(report.verdict, report.finding, report.reason);
  else banner('', 'Not checked yet', 'The numbers are of the allocations. A check tells what of it is lost.');
  // What somebody works with is not replaced under his hands: only what changed is drawn anew.
  if (drawn !== `${chosen}`) {
    app.replaceChildren(h('div', { id: 'choices' }), h('div.cards', { id: 'cards' }), h('div.bar', { id: 'bar' }), h('div', { id: 'charts' }), h('div', { id: 'groups' }));
    drawn = `${chosen}`;
  }
  put('choices', choices(all));
  put('cards', cards(process));
  put('bar', bar(process));
  // Who reads a chart has its cursor there.
  const charts = document.getElementById('charts');
  if (!charts.matches(':hover') && !charts.contains(document.activeElement)) put('charts', timeline({ ...process, line: process.line && { ...process.line, peaks: [null, null] } }));
  put('groups', groups(report));
}

function put(id, ...what) {
  const place = document.getElementById(id), active = document.activeElement;
  const name = place.contains(active) ? active.getAttribute('data-name') : null;
  place.replaceChildren(...what.flat().filter(Boolean));
  if (name) place.querySelector(`[data-name="${CSS.escape(name)}"]`)?.focus();
}

function choices(all) {
  if (all.length < 2) return null;
  return h('div.choices', {}, all.map((one) => h(`button.choice.${one.last ? one.last.verdict : 'none'}`,
    { 'aria-pressed': one.pid === chosen ? 'true' : 'false', 'data-name': `p${one.pid}`, onclick: () => { chosen = one.pid; open = ''; stack = null; draw(); } },
    `${one.process} (pid ${one.pid})`, h('span', {}, one.last ? one.last.finding : 'not checked yet'))));
}

function cards(process) {
  const n = process.numbers, report = process.last;
  const card = (label, value, kind) => h(kind ? `div.card.${kind}` : 'div.card', {}, h('span.label', {}, label), h('b', {}, value));
  return [
    n && card('Live frames', grouped(n.frames)),
    n && card('Live payload', bytes(n.payload_bytes)),
    n && card('Frames made', grouped(n.frames_allocated)),
    report && card('Lost frames', grouped(report.leaks.frames), report.leaks.frames ? 'bad' : ''),
    report && card('Pinned for good', bytes(report.leaks.pinned_bytes), report.leaks.pinned_bytes ? 'bad' : ''),
    report && report.goroutines !== null && card('Goroutines', grouped(report.goroutines)),
    card('Checks', process.failed ? `${grouped(process.checks)} (${process.failed} failed)` : grouped(process.checks)),
    report && card('Stood still', `${report.check.stopped_ms.toFixed(1)} ms`),
    process.alerts !== null && card('Alerts', grouped(process.alerts), process.alerts ? 'bad' : ''),
    n && n.dropped > 0 && card('Events dropped', grouped(n.dropped), 'warn'),
  ];
}

function bar(process) {
  const when = process.last ? `last check ${new Date(process.last.check.started).toLocaleTimeString()}, took ${seconds(process.last.check.duration_s)}` : 'no check yet';
  return [
    h('button.check', { 'data-name': 'check', disabled: busy, onclick: check }, busy ? 'Checking …' : 'Check now'),
    h('span.dim', { id: 'when' }, when), note && h('span.note.warn', {}, note),
  ];
}

async function check() {
  busy = true;
  note = '';
  draw();
  try {
    await ask(`/check?pid=${chosen}`, 'POST');
  } catch (error) {
    note = error.message;
  }
  busy = false;
  stack = null;
  if (open) await load(open);
  refresh();
}

async function load(id) {
  try {
    stack = await ask(`/group.json?pid=${chosen}&id=${id}`);
  } catch (error) {
    stack = { stack: [], error: error.message };
  }
}

async function toggle(id) {
  open = open === id ? '' : id;
  stack = null;
  if (open) await load(id);
  draw();
}

function spark(series) {
  if (series.length < 2) return null;
  const high = Math.max(1, ...series), width = 90, height = 20;
  const d = series.map((v, i) => `${i ? 'L' : 'M'}${((i / (series.length - 1)) * width).toFixed(1)} ${(height - 1 - (v / high) * (height - 2)).toFixed(1)}`).join('');
  return s('svg', { class: 'spark', width, height, viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': `${series.length} checks, highest ${high}` }, s('path', { d }));
}

function groups(report) {
  if (!report) return null;
  const head = ['Objects', 'Class', 'Where', 'Pinned', 'Age', 'Over the checks', 'Growth an hour'];
  const rows = report.groups.flatMap((group) => {
    const key = SHORT[group.class] || 'reachable', isOpen = group.id === open;
    const row = h(group.leak ? 'tr.group.leak' : 'tr.group', { id: `g-${group.id}`, onclick: () => toggle(group.id) },
      h('td', {}, h('button.opener', { 'aria-expanded': isOpen ? 'true' : 'false', 'data-name': group.id }, h('span.mark', {}), objects(group.count, group.object))),
      h('td', {}, h(`span.chip.${key}`, {}, group.class)), h('td.where', {}, h('code', {}, group.place || 'a stack that was not recorded')),
      h('td', {}, group.pinned ? bytes(group.pinned) : h('span.zero', {}, '0')), h('td', {}, span(group.age[0], group.age[1])),
      h('td', {}, spark(group.series)), h('td', {}, group.growth ? h('span.grows', {}, `+${grouped(group.growth)}`) : ''));
    return isOpen ? [row, h('tr.more', {}, h('td', { colspan: head.length }, details()))] : [row];
  });
  return [h('h2', {}, 'Groups at the last check'),
    h('table.groups.live', {}, h('thead', {}, h('tr', {}, head.map((text) => h('th', { scope: 'col' }, text)))), h('tbody', {}, rows)),
    report.more_groups ? h('p.note', {}, `${plural(report.more_groups, 'group')} more are in /report.json.`) : null];
}

function details() {
  if (!stack) return h('p.dim', {}, 'Loading …');
  if (stack.error) return h('p.note.warn', {}, stack.error);
  const frames = (list) => h('ol.stack', {}, list.map((frame) => {
    const where = `${frame.module || '?'}+0x${frame.offset.toString(16)}`;
    const place = frame.file ? `${frame.file}:${frame.line || '?'}` : frame.function ? where : '';
    return h(frame.libav ? 'li' : 'li.own', {}, h('code.fn', {}, frame.function || where), ' ', h('code.place', { title: where }, place));
  }));
  const freed = (stack.freed_elsewhere || []).filter((place) => place.stack.length);
  return [h('h4', {}, `Allocated at · group ${stack.id}`), frames(stack.stack),
    freed.map((place) => [h('h4', {}, `${grouped(place.count)} siblings were freed at`), frames(place.stack)])].flat(3);
}

refresh();
