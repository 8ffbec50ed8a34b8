// What the other parts use: elements, quantities, and the report's tables.
// Nothing here or elsewhere parses markup: all text of the report goes in as text nodes.
const SVG = 'http://www.w3.org/2000/svg';
const D = JSON.parse(document.getElementById('data').textContent);
const T = D.t;
const CLASSES = ['definitely lost', 'indirectly lost', 'possibly lost', 'still reachable', 'unclassified'];
const CLASS_KEYS = ['definite', 'indirect', 'possible', 'reachable', 'unclassified'];

/** An element: `h('p.note', {title: 'x'}, 'text', child)`; `on…` attributes are listeners. */
function h(name, attributes, ...children) {
  const [tag, ...classes] = name.split('.');
  const element = document.createElement(tag);
  if (classes.length) element.className = classes.join(' ');
  return fill(element, attributes, children);
}

/** The same for SVG. */
function s(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith('on')) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? '' : value);
  }
  element.append(...children.flat().filter((child) => child !== undefined && child !== null && child !== false));
  return element;
}

const grouped = (n) => Math.round(n).toString().replace(/\B(?=(\d{3})+(?!\d))/g, ',');
const plural = (n, noun) => `${grouped(n)} ${noun}${n === 1 ? '' : 's'}`;
const objects = (n, name) => `${grouped(n)} ${name}${n !== 1 && name.endsWith('block') ? 's' : ''}`;

/** As units.rs has it: three significant digits. */
function bytes(n) {
  if (n < 1024) return `${Math.round(n)} B`;
  const units = ['KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'];
  let value = n / 1024, unit = 0;
  while (value >= 999.5 && unit + 1 < units.length) { value /= 1024; unit++; }
  const text = value < 9.995 ? value.toFixed(2) : value < 99.95 ? value.toFixed(1) : value.toFixed(0);
  return `${text.includes('.') ? text.replace(/\.?0+$/, '') : text} ${units[unit]}`;
}

/** As units.rs has it. */
function seconds(v) {
  const one = (x) => x.toFixed(1).replace(/\.0$/, '');
  const two = (a, unit, b, other) => (b ? `${a} ${unit} ${b} ${other}` : `${a} ${unit}`);
  const whole = Math.round(v);
  if (!(v >= 0) || v === Infinity) return '?';
  if (v < 0.00095) return '< 1 ms';
  if (v < 0.00995) return `${one(v * 1e3)} ms`;
  if (v < 0.9995) return `${(v * 1e3).toFixed(0)} ms`;
  if (v < 9.95) return `${one(v)} s`;
  if (v < 59.5) return `${whole} s`;
  if (v < 3599.5) return two(Math.floor(whole / 60), 'min', whole % 60, 's');
  const minutes = Math.round(v / 60);
  if (v < 86370) return two(Math.floor(minutes / 60), 'h', minutes % 60, 'min');
  const hours = Math.round(v / 3600);
  return two(Math.floor(hours / 24), 'd', hours % 24, 'h');
}

const span = (low, high) => (seconds(low) === seconds(high) ? seconds(low) : `${seconds(low)} … ${seconds(high)}`);

/** The parts of frame number `at`. */
function frame(at) {
  const [fn, module, file, line, offset, bits] = T.frames[at];
  const where = module >= 0 ? `${T.strings[module]}+0x${offset.toString(16)}` : `0x${offset.toString(16)}`;
  const place = file >= 0 ? (line ? `${T.strings[file]}:${line}` : T.strings[file]) : fn >= 0 ? where : '';
  return {
    at,
    name: fn >= 0 ? T.strings[fn] : where,
    place,
    where,
    library: module >= 0 ? T.strings[module].split('.so')[0] : '',
    inlined: !!(bits & 1), libav: !!(bits & 2), own: !!(bits & 4),
  };
}

/** The number of the innermost frame of the program's own in a stack, or of the outermost of FFmpeg's; −1 for none. */
function blamed(stack) {
  const frames = T.stacks[stack];
  const own = frames.find((at) => T.frames[at][5] & 4);
  if (own !== undefined) return own;
  for (let i = frames.length - 1; i >= 0; i--) if (T.frames[frames[i]][5] & 2) return frames[i];
  return frames.length ? frames[frames.length - 1] : -1;
}

const chip = (c) => h(`span.chip.${CLASS_KEYS[c]}`, {}, CLASSES[c]);
