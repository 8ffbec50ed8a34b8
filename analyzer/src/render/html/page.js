// The page: one process at a time, and a table to choose it where there are several.
// The report's data: v avleak's version; t strings, frames [function, module, file, line, offset, bits], stacks; src source
// lines by frame; p processes. A group: i id, c class, o object, l leak, m outermost, n count, b bytes, p pinned, x exclusive,
// f format, d dimensions, t pts, a ages, r rates, k stack, z free sites, y siblings made, u refs, h holders.
const app = document.getElementById('app');
let current = null;

function totals(process) {
  const heads = ['alive at the check', 'frames', 'packets', 'refs', 'contexts', 'blocks', 'bytes', 'pinned'];
  return h('section', { id: 'totals' }, h('h2', {}, 'Everything alive'), h('div.wide', { tabindex: 0 }, h('table', {},
    h('thead', {}, h('tr', {}, heads.map((head, i) => h(i ? 'th.number' : 'th', { scope: 'col' }, head)))),
    h('tbody', {}, process.totals.map(([c, numbers]) => h('tr', {}, h('th', { scope: 'row' }, chip(c)),
      numbers.map((n, i) => h(n ? 'td.number' : 'td.number.zero', {}, i > 4 ? bytes(n) : grouped(n)))))))));
}

function completeness(process) {
  const blind = process.blind.map(([what, remedy]) => h('li.warn', {}, h('b', {}, what), h('span', {}, ` – ${remedy}`)));
  const notes = process.notes.map((text) => h('li', {}, text));
  if (!blind.length && !notes.length) return h('section', { id: 'completeness' }, h('h2', {}, 'What was not seen'), h('p', {}, 'Nothing: every event arrived, and all memory was read.'));
  return h('section', { id: 'completeness' }, h('h2', {}, 'What was not seen, or is to be known'), h('ul.notes', {}, blind, notes));
}

function show(at, focus) {
  const process = D.p[at];
  const parts = groups(process);
  current = { at, ...parts };
  const cards = h('section.cards', { 'aria-label': 'Summary' }, process.cards.map(([label, value, note, tone]) => h(tone ? `div.card.${tone}` : 'div.card', {}, h('span.label', {}, label), h('b', {}, value), h('span.note', {}, note))));
  const head = D.p.length > 1 && h('div.process', { id: 'process', tabindex: -1 }, h('h2', {}, process.title), h('p', {}, h(`b.${process.verdict}`, {}, process.finding), ` – ${process.reason}`));
  // Where nothing can be said, why is the first thing to be known.
  const why = completeness(process), early = process.verdict === 'inconclusive';
  const level = h('p.note', {}, `Level ${process.level}: what counts as a leak is ${process.means}.`);
  const facts = h('section', { id: 'facts' }, h('h2', {}, 'The run and the check'), h('dl.list', {}, process.facts.map(([label, text]) => h('div', {}, h('dt', {}, label), h('dd', {}, text)))));
  const content = [head, early && why, cards, level, parts.section, timeline(process), flames(process), totals(process), !early && why, facts].filter(Boolean);
  app.replaceChildren(...(D.p.length > 1 ? [chooser(at)] : []), ...content);
  if (focus) document.getElementById('process').focus();
}

function chooser(at) {
  return h('section', { id: 'processes' }, h('h2', {}, `${D.p.length} processes used FFmpeg`),
    h('div.choices', { role: 'group', 'aria-label': 'Process to show' }, D.p.map((process, i) => h(`button.choice.${process.verdict}`, { type: 'button', 'aria-pressed': String(i === at), onclick: () => { location.hash = `p-${i}`; } },
      h('b', {}, process.title), h('span', {}, process.finding)))));
}

/** `#p-2` is a process, `#g-ID` a group of any. */
function follow() {
  const [kind, id] = [location.hash.slice(1, 3), location.hash.slice(3)];
  if (kind === 'p-' && D.p[+id]) show(+id, !!current);
  if (kind !== 'g-' || !/^[0-9a-f]{16}$/.test(id)) return;
  if (current && current.show(id, true)) return;
  const at = D.p.findIndex((process) => process.g.some((g) => g.i === id) || (process.npacked && rowsOf(process).some((row) => row.id() === id)));
  if (at < 0) return;
  show(at);
  current.show(id, true);
}

const plain = document.getElementById('plain');
// A command of which no process used FFmpeg has nothing but its text.
if (D.p.length) {
  plain.open = false;
  plain.querySelector('summary').textContent = 'The same as plain text, to copy';
  show(0);
}
follow();
addEventListener('hashchange', follow);
addEventListener('keydown', (event) => {
  if (event.key === '/' && !event.ctrlKey && !event.metaKey && !/^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName) && current) {
    event.preventDefault();
    current.search.focus();
  }
});
plain.after(h('footer', {}, `Written by avleak ${D.v}. This file is the whole page: it loads nothing and sends nothing. Press / to search.`));
