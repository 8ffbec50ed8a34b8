// The flame graph: who allocated it, outermost function at the top; a box is as wide as what it stands for.
const WEIGHTS = [['Pinned bytes', bytes], ['Objects', (n) => plural(n, 'object')], ['Own bytes', bytes]];

/** The section with the flame graphs of `process`, or nothing. */
function flames(process) {
  const [leaked, all] = process.flames;
  if (!all) return null;
  const box = h('div.flame', { role: 'tree', 'aria-label': 'Flame graph: allocation stacks, outermost function first' });
  const readout = h('p.readout', { role: 'status' });
  const what = h('select', { id: 'flame-what', 'aria-label': 'Which groups' }, leaked && h('option', { value: 0 }, 'What leaked'), h('option', { value: 1 }, 'Everything in groups'));
  const by = h('select', { id: 'flame-by', 'aria-label': 'Width' }, WEIGHTS.map(([label], i) => h('option', { value: i }, label)));
  const up = h('button', { type: 'button', hidden: true }, 'Whole graph');
  let root = leaked || all, path = [];
  by.value = root[2][0] ? 0 : 1;
  const weight = (node) => node[2][+by.value];

  function draw() {
    const format = WEIGHTS[+by.value][1];
    const top = path.length ? path[path.length - 1] : root;
    const whole = weight(root) || 1, base = weight(top) || 1;
    const boxes = [];
    let deepest = 0;
    const place = (node, depth, left, trail) => {
      const width = weight(node) / base;
      if (width * box.clientWidth < 1 && depth > 0) return;
      deepest = Math.max(deepest, depth);
      const name = node === root ? 'all' : T.strings[node[0]];
      const text = `${name}: ${format(weight(node))}, ${((weight(node) / whole) * 100).toFixed(1)} %`;
      const tell = () => { readout.textContent = text; };
      const button = h(`button.${{ 2: 'libav', 4: 'own', 8: 'leaf' }[node[1]] || 'runtime'}`, { type: 'button', title: text, role: 'treeitem', 'aria-level': depth + 1, onpointerenter: tell, onfocus: tell,
        onclick: () => { path = trail; draw(); box.querySelector('button').focus(); } }, name);
      button.style.left = `${left * 100}%`;
      button.style.width = `max(1px, ${width * 100}% - 1px)`;
      button.style.top = `${depth * 1.5}rem`;
      boxes.push(button);
      let at = left;
      const below = [...node[3]].sort((x, y) => weight(y) - weight(x));
      for (const child of below) {
        if (weight(child)) place(child, depth + 1, at, [...trail, child]);
        at += weight(child) / base;
      }
    };
    place(top, 0, 0, path);
    box.replaceChildren(...boxes);
    box.style.height = `${(deepest + 1) * 1.5}rem`;
    up.hidden = !path.length;
    readout.textContent = weight(root) ? `${format(weight(top))} in all; a click or Enter zooms` : 'Nothing to show: choose another width.';
  }
  up.addEventListener('click', () => { path = []; draw(); });
  by.addEventListener('change', draw);
  what.addEventListener('change', () => { root = process.flames[+what.value]; path = []; draw(); });
  // Drawing changes the height; only another width is a reason to draw.
  let drawn = 0;
  new ResizeObserver(() => { if (box.clientWidth !== drawn) { drawn = box.clientWidth; draw(); } }).observe(box);
  const note = 'Groups that share a buffer count it each, so that widths can add up to more than what is pinned.';
  return h('section', { id: 'flames' }, h('h2', {}, 'Flame graph'),
    h('div.tools', {}, h('label', {}, 'Show ', what), h('label', {}, 'by ', by), up,
      h('span.key', {}, h('i.own'), 'the program ', h('i.libav'), 'FFmpeg ', h('i.runtime'), 'system ', h('i.leaf'), 'what was left')),
    readout, box, h('p.note', {}, note));
}
