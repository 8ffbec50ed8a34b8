// The timeline: small charts above each other with one cursor for all of them.

/** A round step so that `high` takes about `count` of them. `binary`: a power of two, as bytes are counted. */
function step(high, count, binary) {
  const raw = high / count || 1;
  if (binary) return 2 ** Math.max(0, Math.ceil(Math.log2(raw)));
  const power = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 5, 10].find((f) => f * power >= raw * 0.999) * power;
}

/** A round span of time, in seconds, so that `whole` takes at most `most` of them. */
function timeStep(whole, most) {
  const round = [60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400];
  if (whole / most <= 30) return step(whole, most, false);
  return round.find((t) => whole / t <= most) || step(whole / 86400, most, false) * 86400;
}

const short = (n) => (n >= 1e9 ? `${+(n / 1e9).toFixed(1)}G` : n >= 1e6 ? `${+(n / 1e6).toFixed(1)}M` : n >= 1e4 ? `${+(n / 1e3).toFixed(1)}k` : grouped(n));

function rate(n) { return n >= 10 ? short(Math.round(n)) : `${+n.toFixed(1)}`; }

/** The charts of a process's timeline, or nothing. */
function timeline(process) {
  const line = process.line;
  if (!line) return null;
  const n = line.allocs.length, dt = line.dt, whole = n * dt;
  const per = (column) => column.map((value) => value / dt);
  const charts = [
    { title: 'Live frames', key: 'frames', format: short, binary: false, at: (i) => `${grouped(line.frames[2][i])} (${grouped(line.frames[0][i])} to ${grouped(line.frames[1][i])})`,
      band: line.frames, peak: line.peaks[0] && { at: line.peaks[0][1], value: line.peaks[0][0] } },
    { title: 'Live payload', key: 'payload', format: bytes, binary: true, at: (i) => `${bytes(line.payload[2][i])} (${bytes(line.payload[0][i])} to ${bytes(line.payload[1][i])})`,
      band: line.payload, peak: line.peaks[1] && { at: line.peaks[1][1], value: line.peaks[1][0] } },
    { title: 'Allocations and frees, per second', key: 'rates', format: rate, binary: false, at: (i) => `${rate(line.allocs[i] / dt)}/s made, ${rate(line.frees[i] / dt)}/s freed`,
      lines: [['made', per(line.allocs)], ['freed', per(line.frees)]] },
    { title: 'Live blocks', key: 'blocks', format: short, binary: false, at: (i) => `${grouped(line.blocks[2][i])} (${grouped(line.blocks[0][i])} to ${grouped(line.blocks[1][i])})`,
      band: line.blocks },
  ];
  const boxes = charts.map((chart) => {
    const readout = h('output.readout', { 'aria-live': 'off' });
    const high = Math.max(1, ...(chart.band ? chart.band[1] : chart.lines.flatMap((l) => l[1])));
    const label = `${chart.title}: a chart over ${seconds(whole)}, highest ${chart.format(high)}. Arrow keys move the cursor.`;
    const holder = h('div.plot', { tabindex: 0, role: 'img', 'aria-label': label });
    const box = h(`figure.chart.${chart.key}`, {}, h('figcaption', {}, h('span', {}, h('b', {}, chart.title), (chart.lines || []).map(([name]) => h(`span.legend.${name}`, {}, name))), readout), holder);
    return { ...chart, readout, holder, box, high };
  });
  let cursor = -1;
  const move = (i) => {
    cursor = Math.max(0, Math.min(n - 1, i));
    for (const b of boxes) {
      b.readout.textContent = `${seconds((cursor + 1) * dt)}: ${b.at(cursor)}`;
      if (b.hair) {
        const x = b.x(cursor + 0.5);
        b.hair.setAttribute('x1', x);
        b.hair.setAttribute('x2', x);
        b.hair.setAttribute('visibility', 'visible');
      }
    }
  };
  const leave = () => {
    cursor = -1;
    for (const b of boxes) {
      b.readout.textContent = b.peak ? `peak ${b.format(b.peak.value)} after ${seconds(b.peak.at)}` : '';
      if (b.hair) b.hair.setAttribute('visibility', 'hidden');
    }
  };
  for (const b of boxes) {
    b.holder.addEventListener('pointermove', (event) => {
      const left = b.holder.getBoundingClientRect().left;
      move(Math.floor(((event.clientX - left - b.left) / b.width) * n));
    });
    b.holder.addEventListener('pointerleave', leave);
    b.holder.addEventListener('blur', leave);
    b.holder.addEventListener('keydown', (event) => {
      const by = { ArrowRight: 1, ArrowLeft: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity }[event.key];
      if (by === undefined) return;
      event.preventDefault();
      move(cursor < 0 && by < 0 ? n - 1 : by === Infinity ? n - 1 : by === -Infinity ? 0 : cursor + by);
    });
  }
  const draw = () => boxes.forEach((b) => plot(b, n, dt));
  new ResizeObserver(draw).observe(boxes[0].holder);
  leave();
  const peaks = [peak(line.peaks[0], 'frames', (n) => plural(n, 'frame')), peak(line.peaks[1], 'payload', bytes)];
  return h('section', { id: 'timeline' }, h('h2', {}, 'Over the run'),
    h('div.charts', {}, boxes.map((b) => b.box)),
    h('p.note', {}, `${plural(n, 'sample')} of ${seconds(dt)}; the band is lowest to highest, the line the end of each sample. ` +
      'Payload is what pictures, samples and packets take up, whoever points to it; which part of it is pinned for good is known only at the check.'),
    h('div.peaks', {}, peaks));
}

function plot(b, n, dt) {
  const width = b.holder.clientWidth || 600, height = 150, left = 62, top = 8, bottom = 22, right = 8;
  const by = step(b.high, 3, b.binary), ceiling = Math.ceil(b.high / by) * by;
  b.left = left;
  b.width = Math.max(1, width - left - right);
  const x = (i) => left + (i / n) * b.width, y = (v) => top + (1 - v / ceiling) * (height - top - bottom);
  b.x = x;
  const path = (column) => column.map((v, i) => `${i ? 'L' : 'M'}${x(i).toFixed(1)} ${y(v).toFixed(1)}L${x(i + 1).toFixed(1)} ${y(v).toFixed(1)}`).join('');
  const marks = [];
  for (let v = 0; v <= ceiling * 1.001; v += by) {
    marks.push(s('line', { class: 'grid', x1: left, x2: width - right, y1: y(v), y2: y(v) }),
      s('text', { class: 'tick', x: left - 6, y: y(v) + 4, 'text-anchor': 'end' }, b.format(v)));
  }
  const whole = n * dt, many = Math.max(2, Math.min(8, Math.floor(b.width / 110))), time = timeStep(whole, many);
  for (let t = 0; t <= whole * 1.001; t += time) {
    const at = x(t / dt), end = at > width - 40;
    marks.push(s('text', { class: 'tick', x: end ? width - right : at, y: height - 6, 'text-anchor': end ? 'end' : t ? 'middle' : 'start' }, t ? seconds(t) : '0'));
  }
  const shapes = [];
  if (b.band) {
    const [min, max, last] = b.band;
    const back = min.map((v, i) => [i, v]).reverse().map(([i, v]) => `L${x(i + 1).toFixed(1)} ${y(v).toFixed(1)}L${x(i).toFixed(1)} ${y(v).toFixed(1)}`).join('');
    shapes.push(s('path', { class: 'band', d: `${path(max)}${back}Z` }), s('path', { class: 'line', d: path(last) }));
    if (b.peak) shapes.push(s('circle', { class: 'peak', cx: Math.min(x(b.peak.at / dt), width - right), cy: y(b.peak.value), r: 3.5 }));
  } else {
    for (const [name, column] of b.lines) shapes.push(s('path', { class: `line ${name}`, d: path(column) }));
  }
  b.hair = s('line', { class: 'hair', y1: top, y2: height - bottom, visibility: 'hidden' });
  b.holder.replaceChildren(s('svg', { width, height, viewBox: `0 0 ${width} ${height}`, 'aria-hidden': 'true' }, marks, shapes, b.hair));
}

/** What made up a peak. */
function peak(row, what, format) {
  if (!row) return null;
  const [value, at, taken, by] = row;
  const of = (count, size) => (what === 'frames' ? count : size);
  const rest = taken - by.reduce((sum, [count, size]) => sum + of(count, size), 0);
  return h('div.peak', {}, h('h3', {}, `At the peak of ${what}: ${format(value)} after ${seconds(at)}`),
    taken !== value && h('p.note', {}, `by stack when it was ${format(taken)}`),
    h('ol', {}, by.map(([count, size, stack]) => {
      const share = of(count, size) / Math.max(1, taken);
      const bar = h('span.share', { 'aria-hidden': 'true' });
      bar.style.width = `${(share * 100).toFixed(1)}%`;
      return h('li', {}, bar, h('details', {},
        h('summary', {}, h('b', {}, what === 'frames' ? grouped(count) : bytes(size)), what === 'frames' ? '' : ` in ${grouped(count)}`, ' by ', site(stack)),
        stackList(stack)));
    }), rest > 0 && h('li', {}, h('b', {}, what === 'frames' ? grouped(rest) : bytes(rest)), ' by other stacks')));
}
