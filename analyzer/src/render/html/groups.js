// The groups of a process: a table that is sorted, searched and filtered; rows open to details.
const PAGE = 50;

/** All groups of a process, whole and packed, as rows in the report's order. */
function rowsOf(process) {
  const rows = process.g.map((g, order) => ({
    order, w: g, c: g.c, o: g.o, l: !!g.l, n: g.n, b: g.b, p: g.p, a: g.a[1], f: blamed(g.k), fn: -1, file: -1, line: 0, id: () => g.i,
  }));
  const raw = atob(process.packed);
  let at = 0;
  // LEB128; by multiplication, for shifts end at 32 bits.
  const number = () => {
    let value = 0, unit = 1, byte;
    do { byte = raw.charCodeAt(at++); value += (byte & 127) * unit; unit *= 128; } while (byte > 127);
    return value;
  };
  const id = (start) => {
    let text = '';
    for (let i = start; i < start + 8; i++) text += raw.charCodeAt(i).toString(16).padStart(2, '0');
    return text;
  };
  for (let i = 0; i < process.npacked; i++) {
    const start = at, kind = raw.charCodeAt(start + 8);
    at += 9;
    const o = number(), n = number(), b = number(), p = number(), a = number() / 1e3, fn = number() - 1, file = number() - 1, line = number();
    rows.push({ order: rows.length, w: null, c: kind & 7, o, l: kind > 7, n, b, p, a, f: -1, fn, file, line, id: () => id(start) });
  }
  return rows;
}

/** A function that says whether a row has this word: in a function, file, module, object, class or its id. */
function matcher(word) {
  const strings = T.strings.map((text) => text.toLowerCase().includes(word));
  const placed = word.includes(':');
  const frames = T.frames.map(([fn, module, file, line]) => (fn >= 0 && strings[fn]) || (module >= 0 && strings[module]) || (file >= 0 && strings[file])
    || (placed && file >= 0 && `${T.strings[file]}:${line}`.toLowerCase().includes(word)));
  const stacks = T.stacks.map((stack) => stack.some((at) => frames[at]));
  const packed = (row) => (row.fn >= 0 && strings[row.fn]) || (row.file >= 0 && (strings[row.file] || (placed && `${T.strings[row.file]}:${row.line}`.toLowerCase().includes(word))));
  const hex = /^[0-9a-f]{3,16}$/.test(word);
  return (row) => strings[row.o] || CLASSES[row.c].includes(word) || (row.w ? stacks[row.w.k] || (row.w.f !== undefined && strings[row.w.f]) || (row.w.d || '').includes(word) : packed(row))
    || (hex && row.id().includes(word));
}

const COLUMNS = [
  ['order', 'As reported', null], ['n', 'Objects', 'What was left, and how often'], ['c', 'Class', "Valgrind's classes"], ['f', 'Allocated in', 'The innermost function outside FFmpeg'],
  ['p', 'Pinned', 'Bytes of the buffers to which lost refs of the group lead'], ['b', 'Own size', 'Bytes of the objects themselves'], ['a', 'Oldest', 'Age at the check'],
];

/** The section with the groups of `process`. */
function groups(process) {
  const rows = rowsOf(process);
  const leaks = rows.filter((row) => row.l).length;
  const state = { leaks: leaks > 0, classes: new Set(), words: [], key: 'order', down: false, shown: PAGE, open: new Set() };
  let found = [];
  const name = (row) => (row.f >= 0 ? frame(row.f).name : row.fn >= 0 ? T.strings[row.fn] : '\uffff').toLowerCase();
  const body = h('tbody', {});
  const status = h('p.status', { role: 'status' });
  const more = h('div.pages', {});

  const search = h('input', { type: 'search', id: 'search', placeholder: 'Function, file, object or id', 'aria-label': 'Search groups by function, file, object or id', autocomplete: 'off', spellcheck: 'false' });
  let timer = 0;
  search.addEventListener('input', () => {
    clearTimeout(timer);
    timer = setTimeout(() => { state.words = search.value.toLowerCase().split(/\s+/).filter(Boolean); state.shown = PAGE; update(); }, rows.length > 5000 ? 150 : 0);
  });
  const only = h('input', { type: 'checkbox', id: 'only', onchange: () => { state.leaks = only.checked; state.shown = PAGE; update(); } });
  only.checked = state.leaks;
  const chips = CLASSES.map((label, c) => {
    const button = h(`button.chip.${CLASS_KEYS[c]}`, { type: 'button', 'aria-pressed': 'false', 'data-class': CLASS_KEYS[c], onclick: () => {
      if (!state.classes.delete(c)) state.classes.add(c);
      button.setAttribute('aria-pressed', String(state.classes.has(c)));
      state.shown = PAGE;
      update();
    } }, label);
    return button;
  });
  const sort = (key, down) => {
    state.down = down ?? (state.key === key ? !state.down : !['order', 'c', 'f'].includes(key));
    state.key = key;
    state.shown = PAGE;
    select.value = key;
    update();
  };
  const select = h('select', { id: 'sort', 'aria-label': 'Sort by', onchange: () => { state.key = ''; sort(select.value); } }, COLUMNS.map(([key, label]) => h('option', { value: key }, label)));
  const heads = COLUMNS.slice(1).map(([key, label, title]) => h('th', { scope: 'col', 'data-key': key }, h('button', { type: 'button', title, onclick: () => sort(key) }, label)));

  function matches(row, tests) {
    return (!state.leaks || row.l) && tests.every((test) => test(row));
  }
  function update() {
    const tests = state.words.map(matcher);
    const passing = rows.filter((row) => matches(row, tests));
    const counts = [0, 0, 0, 0, 0];
    for (const row of passing) counts[row.c]++;
    chips.forEach((chip, c) => {
      chip.replaceChildren(CLASSES[c], ' ', h('b', {}, grouped(counts[c])));
      chip.hidden = !rows.some((row) => row.c === c);
    });
    found = state.classes.size ? passing.filter((row) => state.classes.has(row.c)) : passing;
    const { key, down } = state, sign = down ? -1 : 1;
    if (key === 'f') {
      const names = new Map(found.map((row) => [row, name(row)]));
      found.sort((x, y) => sign * (names.get(x) < names.get(y) ? -1 : names.get(x) > names.get(y) ? 1 : 0) || x.order - y.order);
    } else found.sort((x, y) => sign * (x[key] - y[key]) || x.order - y.order);
    heads.forEach((head) => head.setAttribute('aria-sort', head.dataset.key === key ? (down ? 'descending' : 'ascending') : 'none'));
    status.textContent = found.length === rows.length ? plural(rows.length, 'group') : `${grouped(found.length)} of ${plural(rows.length, 'group')}`;
    draw();
  }
  function draw() {
    const shown = found.slice(0, state.shown);
    body.replaceChildren(...shown.flatMap(rowElements));
    const next = Math.min(found.length - state.shown, 4 * PAGE);
    more.replaceChildren(...(next > 0 ? [h('button', { type: 'button', onclick: () => { state.shown += 4 * PAGE; draw(); } }, `Show ${grouped(next)} more of ${grouped(found.length)}`)] : []));
    if (!found.length && rows.length) body.append(h('tr', {}, h('td.empty', { colspan: 6 }, empty())));
  }
  function empty() {
    if (!rows.length) return process.verdict === 'clean' ? 'Nothing was leaked, and nothing else of FFmpeg is alive.' : 'No groups are in this report.';
    const away = h('button', { type: 'button', onclick: reset }, 'Show all groups');
    return ['No group is like that. ', away];
  }
  function reset() {
    search.value = '';
    only.checked = false;
    Object.assign(state, { leaks: false, words: [], shown: PAGE });
    state.classes.clear();
    chips.forEach((chip) => chip.setAttribute('aria-pressed', 'false'));
    update();
  }
  function place(row) {
    if (row.f >= 0) return named(row.f);
    if (row.fn < 0) return h('span.dim', {}, row.w ? 'not recorded' : 'see the JSON');
    return h('span.site', {}, h('code.fn', {}, T.strings[row.fn]), ' ', row.file >= 0 && h('code.place', {}, `${T.strings[row.file]}${row.line ? `:${row.line}` : ''}`));
  }
  function rowElements(row) {
    const open = state.open.has(row.order);
    const button = h('button.opener', { type: 'button', 'aria-expanded': String(open) }, h('span.mark', { 'aria-hidden': 'true' }), h('b', {}, grouped(row.n)), ` ${objects(row.n, T.strings[row.o]).replace(/^\S+ /, '')}`);
    const format = row.w ? [row.w.d, row.w.f === undefined ? '' : T.strings[row.w.f]].filter(Boolean).join(' ') : '';
    const cell = (label, attributes, ...children) => h('td', { 'data-label': label, ...attributes }, ...children);
    const element = h(row.l ? 'tr.group.leak' : 'tr.group', { id: `g-${row.id()}` },
      cell('', {}, button, format && h('span.dim.format', {}, format)), cell('', {}, chip(row.c)),
      cell('in', { class: 'where' }, place(row)),
      cell('pinned', { class: 'number' }, row.p ? bytes(row.p) : '–'), cell('own size', { class: 'number' }, bytes(row.b)), cell('oldest', { class: 'number' }, seconds(row.a)));
    const toggle = () => {
      if (!state.open.delete(row.order)) state.open.add(row.order);
      const now = state.open.has(row.order);
      button.setAttribute('aria-expanded', String(now));
      if (now) element.after(detailsRow(row)); else element.nextElementSibling.remove();
    };
    button.addEventListener('click', (event) => { event.stopPropagation(); toggle(); });
    element.addEventListener('click', () => { if (!String(getSelection())) toggle(); });
    return open ? [element, detailsRow(row)] : [element];
  }
  function detailsRow(row) {
    const content = row.w ? details(row.w, process.seconds) : h('p.note', {}, `This page holds the ${grouped(process.g.length)} most important groups whole; of this one only its line. Its stack stands in the JSON report under id `, h('code', {}, row.id()), '.');
    return h('tr.more', {}, h('td', { colspan: 6 }, content));
  }
  /** Opens the group with this id and returns its element, or nothing. */
  function show(id, scroll) {
    const row = rows.find((r) => r.id() === id);
    if (!row) return null;
    if (!found.includes(row)) reset();
    state.shown = Math.max(state.shown, found.indexOf(row) + 1);
    state.open.add(row.order);
    draw();
    const element = document.getElementById(`g-${id}`);
    if (scroll && element) element.scrollIntoView({ block: 'start' });
    return element;
  }
  addEventListener('beforeprint', () => {
    if (!body.isConnected) return;
    // Paper cannot be clicked.
    found.slice(0, 20).filter((row) => row.l).forEach((row) => state.open.add(row.order));
    draw();
  });

  const notes = [];
  if (process.npacked) notes.push(`The ${grouped(process.g.length)} most important groups are here with everything that is known of them, ${grouped(process.npacked)} more with a line each (their stacks stand in the JSON report).`);
  if (process.rest.length) {
    const sums = process.rest.map(([c, o, groups, count, , pinned]) => `${objects(count, T.strings[o])} ${CLASSES[c]} in ${plural(groups, 'group')}${pinned ? `, pinning ${bytes(pinned)}` : ''}`);
    notes.push(`For want of room only summed up: ${sums.join('; ')}.`);
  }
  const section = h('section', { id: 'groups' }, h('h2', {}, 'Groups'),
    h('p.note', {}, 'A group is what one allocation stack left behind, of one class. ', notes.join(' ')),
    rows.length > 0 && h('div.tools', { role: 'search' }, search, leaks > 0 && h('label', {}, only, ` leaks only (${grouped(leaks)})`), h('span.chips', { role: 'group', 'aria-label': 'Classes' }, chips), h('label.sorter', {}, 'Sort by ', select)),
    rows.length > 0 ? status : h('p.none', {}, empty()), rows.length > 0 && h('table.groups', {}, h('thead', {}, h('tr', {}, heads)), body), more);
  update();
  // A report of few leaks shows the first one open: it is what the reader came for.
  if (leaks > 0 && leaks <= 3 && rows[0].w) { state.open.add(0); draw(); }
  return { section, show, search };
}
