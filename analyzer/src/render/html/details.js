// One group's details: its stack with source lines, where siblings are freed, who holds its buffers, what holds it.

/** A place in a stack, in a line: the program's own function, and by which of FFmpeg's it called. */
function site(stack) {
  const at = stack < 0 ? -1 : blamed(stack);
  if (at < 0) return h('span.dim', {}, 'a stack that was not recorded');
  const frames = T.stacks[stack], inner = frames[frames.indexOf(at) - 1];
  const by = inner !== undefined && frame(at).own && frame(inner).libav;
  return h('span', {}, by && h('code.place', {}, `${frame(inner).name} ← `), named(at));
}

/** Function and place of frame `at`. */
function named(at) {
  const f = frame(at);
  return h('span.site', {}, h('code.fn', {}, f.name), ' ', h('code.place', {}, f.own ? f.place : f.library ? `(${f.library})` : f.place));
}

/** The lines around a frame's, where they were at hand. */
function source(at) {
  const found = D.src[at];
  if (!found) return null;
  const [first, changed, text] = found;
  const hit = T.frames[at][3];
  const rows = text.split('\n').map((line, i) => {
    const number = first + i;
    return h(number === hit ? 'span.row.hit' : 'span.row', {}, h('span.number', { 'aria-hidden': 'true' }, number), h('span.code', {}, line || ' '));
  });
  return h('div.source', {}, changed ? h('p.note.warn', {}, 'This file was changed after the run: the lines may have moved.') : null,
    h('pre', { tabindex: 0 }, rows));
}

/** Frames as rows: the program's own stand out, FFmpeg's and the system's are folded. */
function stackList(stack) {
  const list = h('ol.stack', {});
  if (stack < 0 || !T.stacks[stack].length) return h('p.dim', {}, 'The stack was not recorded.');
  const frames = T.stacks[stack].map(frame);
  const marked = frames.find((f) => f.own);
  let folded = [];
  const row = (f) => {
    const lines = source(f.at);
    const head = [h('span.mark', { 'aria-hidden': 'true' }, f === marked ? '▸' : ''), h('code.fn', {}, f.name),
      f.inlined && h('span.dim', {}, ' (inlined)'), ' ', h('code.place', { title: f.where }, f.place)];
    return h(f.own ? (f === marked ? 'li.own.marked' : 'li.own') : 'li', {},
      lines ? h('details', { open: f === marked }, h('summary', {}, head), lines) : h('div.plainrow', {}, head));
  };
  const flush = () => {
    if (!folded.length) return;
    const libraries = [...new Set(folded.map((f) => f.library).filter(Boolean))].join(', ');
    const names = folded.map((f) => f.name);
    const text = names.length > 4 ? [...names.slice(0, 2), `(${names.length - 3} more)`, names[names.length - 1]].join(' ← ') : names.join(' ← ');
    list.append(h('li.fold', {}, h('details', {}, h('summary', {}, h('code', {}, text), libraries ? ` (${libraries})` : ''),
      h('ol.stack', {}, folded.map(row)))));
    folded = [];
  };
  // A stack without a frame of the program's own, as in a codec's thread: FFmpeg's frames are all that there is to read.
  for (const f of frames) {
    if (f.own || (!marked && f.libav)) { flush(); list.append(row(f)); } else folded.push(f);
  }
  flush();
  return list;
}

/** Functions from innermost to outermost, start-up code left out. */
function chain(stack) {
  const frames = T.stacks[stack].map(frame);
  let end = frames.length;
  if (frames.some((f) => f.own)) while (end && !frames[end - 1].own && !frames[end - 1].libav) end--;
  return frames.slice(0, end).map((f) => f.name).join(' ← ');
}

function siblings(g) {
  const others = Math.max(0, g.y - g.n), these = g.n === 1 ? 'this one' : `these ${grouped(g.n)}`;
  if (!g.z.length) {
    if (!g.y) return null;
    const text = g.y === 1 ? 'It is the only one that was ever allocated there, and nobody freed it.'
      : others ? `${grouped(others)} more of the ${grouped(g.y)} allocated there were freed or live on elsewhere.`
        : `None of the ${grouped(g.y)} allocated there was ever freed.`;
    return h('div.part', {}, h('h4', {}, 'Siblings'), h('p', {}, text));
  }
  const rows = g.z.map(([stack, count, ms]) => {
    const share = g.y ? count / g.y : 0, at = blamed(stack);
    const bar = h('span.share', { 'aria-hidden': 'true' });
    bar.style.width = `${(share * 100).toFixed(1)}%`;
    return h('li', {}, bar, h('details', {}, h('summary', {}, site(stack), ' ',
      h('b', {}, g.y ? `${grouped(count)} of ${grouped(g.y)}` : grouped(count)),
      g.y ? ` (${(share * 100).toFixed(share > 0.1 ? 0 : 1)} %)` : '', `, after ${seconds(ms / 1e3)} (median)`),
    h('p.chain', {}, h('code', {}, chain(stack))), at >= 0 && source(at)));
  });
  return h('div.part', {}, h('h4', {}, 'Siblings are freed at'), h('ul.bars', {}, rows),
    h('p', {}, h('b', {}, `${these[0].toUpperCase()}${these.slice(1)} never came ${g.z.length > 1 ? 'to any of them' : 'there'}.`)));
}

function holders(g) {
  if (!g.u.length) return null;
  const end = g.x ? 'held by lost refs only: nobody can ever free it' : 'held by these refs';
  return h('div.part', {}, h('h4', {}, 'Who holds its buffers'), h('p', {}, `${g.p ? bytes(g.p) : 'Its buffers'}, ${end}.`),
    h('ul.bars', {}, g.u.map(([c, count, stack]) => h('li', {}, h('details', {},
      h('summary', {}, h('b', {}, grouped(count)), ' AVBufferRef ', chip(c), ' made in ', site(stack)), stackList(stack))))));
}

function heldBy(g) {
  if (!g.h.length) return null;
  const steps = g.h.map(([what, offset, interior, stack]) => h('li', {}, h('code', {}, T.strings[what]),
    h('span.dim', {}, ` +0x${offset.toString(16)}${interior ? ', points into the middle' : ''}`), stack >= 0 ? [', made in ', site(stack)] : ''));
  const inside = g.h[g.h.length - 1][2];
  return h('div.part', {}, h('h4', {}, g.n > 1 ? 'Held by (one example)' : 'Held by'),
    h('ol.held', {}, steps, h('li', {}, h('b', {}, `${inside ? 'into the middle of the ' : 'the '}${T.strings[g.o]}`))));
}

/** Everything that is known of a group. */
function details(g, duration) {
  const facts = [];
  const fact = (label, value) => value && facts.push(h('div', {}, h('dt', {}, label), h('dd', {}, value)));
  if (g.l && g.c === 1 && g.m < g.n) fact('Outermost', `${grouped(g.m)} of ${grouped(g.n)}`);
  fact('Format', [g.d, g.f === undefined ? '' : T.strings[g.f]].filter(Boolean).join(' '));
  fact('pts', g.t);
  fact('Age', span(g.a[0], g.a[1]));
  fact('Own size', bytes(g.b));
  fact('Pins', g.p ? `${bytes(g.p)} (${grouped(g.p)} bytes)` : '');
  // One leak in 0.2 s is not 300 a minute.
  if (g.n > 1 && g.r[0] && duration >= 10) fact('Rate', g.r[0] < 0.1 ? `${+(g.r[0] * 60).toPrecision(3)}/h` : `${+g.r[0].toPrecision(3)}/min`);
  if (g.n > 1 && g.r[1]) fact('For 1,000 frames', `${+g.r[1].toPrecision(2)}`);
  facts.push(h('div', {}, h('dt', {}, 'Group'), h('dd', {}, h('a', { href: `#g-${g.i}` }, h('code', {}, g.i)))));
  return h('div.details', {}, h('dl.facts', {}, facts),
    h('div.columns', {}, h('div.part', {}, h('h4', {}, 'Allocated at'), stackList(g.k)),
      h('div', {}, siblings(g), holders(g), heldBy(g))));
}
