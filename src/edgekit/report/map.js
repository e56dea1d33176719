{
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent), sprite = $("sprite"), total = data.files.length;
  const board = $("map"), pen = board.getContext("2d"), tip = $("tip"), stage = board.parentElement;
  const LIGHT = ["#2b62c4", "#c4451c", "#0a8a6c", "#7d4bc4", "#a86a00", "#bd3a78", "#3a7d1e", "#0082a3", "#6b5b4b", "#8a1f2b"];
  const DARK = ["#79abff", "#ff8f66", "#4fd3a8", "#c09bff", "#e9b949", "#ff8abb", "#9ad66b", "#5fd0ee", "#c9b8a4", "#ff7480"];
  const RAMPS = { light: [[203, 212, 220], [222, 158, 62], [168, 25, 40]], dark: [[62, 73, 82], [226, 176, 74], [255, 104, 104]] };
  const SHAPES = 4, DOT = 4.5, THUMB = 40, MOST_THUMBS = 70, MOST_ZOOM = 80;
  const sorted = [...data.anomaly].sort((a, b) => a - b);
  const least = sorted[0], most = sorted[total - 1];
  // Colors spread over the lower 99 % of the scores: one extreme image must not turn all others gray.
  const high = sorted[Math.floor((total - 1) * 0.99)];
  const rank = new Array(total);
  [...data.anomaly.keys()].sort((a, b) => data.anomaly[b] - data.anomaly[a]).forEach((image, place) => { rank[image] = place + 1; });

  let width = 0, height = 0, ratio = 1, view = { x: 0.5, y: 0.5, zoom: 1 };
  let by = data.colorings.length ? 0 : -1, only = new Set(), found = null, hovered = -1, chosen = -1, waiting = false;

  const span = (values) => Math.max(Math.max(...values) - Math.min(...values), 0.05);
  const across = span(data.x), down = span(data.y);
  // The axes mean nothing: a map that is wide lies on its side where the window is tall.
  const turned = () => (height > width) !== (down > across);
  const px = (i) => turned() ? data.y[i] : data.x[i], py = (i) => turned() ? data.x[i] : data.y[i];
  const base = () => Math.min((width - 48) / (turned() ? down : across), (height - 48) / (turned() ? across : down));
  const toScreen = (i) => [(px(i) - view.x) * base() * view.zoom + width / 2, (py(i) - view.y) * base() * view.zoom + height / 2];
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const group = (i) => data.colorings[by].of[i];
  const mix = (a, b, t) => a.map((v, k) => Math.round(v + (b[k] - v) * t));
  const heat = (t) => {
    const [a, b, c] = RAMPS[dark() ? "dark" : "light"];
    return `rgb(${(t < 0.5 ? mix(a, b, t * 2) : mix(b, c, t * 2 - 1)).join(" ")})`;
  };
  const colorOf = (g) => g < 0 ? style("--soft") : (dark() ? DARK : LIGHT)[g % LIGHT.length];
  const faded = (i) => (found !== null && !found.has(i)) || (by >= 0 && only.size > 0 && !only.has(group(i)));

  function shape(pen, kind, x, y, r) {
    pen.beginPath();
    if (kind === 1) pen.rect(x - r * 0.9, y - r * 0.9, r * 1.8, r * 1.8);
    else if (kind === 2) { pen.moveTo(x, y - r * 1.2); pen.lineTo(x + r * 1.15, y + r * 0.85); pen.lineTo(x - r * 1.15, y + r * 0.85); pen.closePath(); }
    else if (kind === 3) { pen.moveTo(x, y - r * 1.3); pen.lineTo(x + r * 1.3, y); pen.lineTo(x, y + r * 1.3); pen.lineTo(x - r * 1.3, y); pen.closePath(); }
    else pen.arc(x, y, r, 0, 7);
  }
  function picture(canvas, image) {
    const side = data.side, pen = canvas.getContext("2d");
    pen.drawImage(sprite, image % data.columns * side, Math.floor(image / data.columns) * side, side, side, 0, 0, canvas.width, canvas.height);
  }
  function pictureOf(image, size, kind = "") {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = size;
    canvas.className = kind;
    canvas.setAttribute("aria-hidden", "true");
    picture(canvas, image);
    return canvas;
  }
  function draw() {
    waiting = false;
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    const spots = data.files.map((_, i) => toScreen(i));
    const inside = spots.map(([x, y], i) => [i, x > -THUMB && x < width + THUMB && y > -THUMB && y < height + THUMB]).filter((p) => p[1]).map((p) => p[0]);
    // What is faded lies below, and an outlier above what is common.
    inside.sort((a, b) => faded(b) - faded(a) || (by < 0 ? data.anomaly[a] - data.anomaly[b] : a - b));
    const thumbs = view.zoom > 1.4 && inside.length <= MOST_THUMBS;
    const edge = style("--card");
    if (chosen >= 0) {
      pen.strokeStyle = style("--soft");
      pen.lineWidth = 1;
      for (const [who] of data.neighbors[chosen]) {
        if (typeof who !== "number") continue;
        pen.beginPath(); pen.moveTo(...spots[chosen]); pen.lineTo(...spots[who]); pen.stroke();
      }
    }
    for (const i of inside) {
      const [x, y] = spots[i], g = by >= 0 ? group(i) : 0;
      const color = by >= 0 ? colorOf(g) : heat(Math.min(1, (data.anomaly[i] - least) / (high - least || 1)));
      pen.globalAlpha = faded(i) ? 0.13 : 1;
      if (thumbs) {
        const side = data.side;
        pen.fillStyle = color;
        pen.fillRect(x - THUMB / 2 - 3, y - THUMB / 2 - 3, THUMB + 6, THUMB + 6);
        pen.drawImage(sprite, i % data.columns * side, Math.floor(i / data.columns) * side, side, side, x - THUMB / 2, y - THUMB / 2, THUMB, THUMB);
      } else {
        shape(pen, by >= 0 && g >= 0 ? Math.floor(g / LIGHT.length) % SHAPES : 0, x, y, DOT);
        pen.fillStyle = color; pen.fill();
        pen.strokeStyle = edge; pen.lineWidth = 1; pen.stroke();
      }
    }
    pen.globalAlpha = 1;
    for (const i of new Set([hovered, chosen])) {
      if (i < 0) continue;
      pen.strokeStyle = style("--ink"); pen.lineWidth = 2.5;
      if (thumbs) pen.strokeRect(spots[i][0] - THUMB / 2 - 4, spots[i][1] - THUMB / 2 - 4, THUMB + 8, THUMB + 8);
      else { pen.beginPath(); pen.arc(...spots[i], DOT + 4, 0, 7); pen.stroke(); }
    }
  }
  const redraw = () => { if (!waiting) { waiting = true; requestAnimationFrame(draw); } };

  function at(x, y, reach) {
    let best = -1, least = reach * reach;
    for (let i = 0; i < total; i++) {
      if (faded(i)) continue;
      const [a, b] = toScreen(i), d = (a - x) ** 2 + (b - y) ** 2;
      if (d < least) { least = d; best = i; }
    }
    return best;
  }
  const description = (i) => [
    ...data.colorings.filter((c) => c.of[i] >= 0).map((c) => `${c.title} ${c.names[c.of[i]]}`), `anomaly score ${data.anomaly[i].toFixed(3)}`,
  ].join(", ");
  // A long name breaks after a folder before it breaks in a word.
  const breakable = (name) => name.split("/").flatMap((part, k, parts) => k < parts.length - 1 ? [`${part}/`, document.createElement("wbr")] : [part]);
  function showTip(i) {
    tip.hidden = i < 0;
    if (i < 0) return;
    picture(tip.children[0], i);
    tip.children[1].replaceChildren(...breakable(data.files[i]));
    tip.children[2].textContent = by >= 0 && group(i) >= 0 ? data.colorings[by].names[group(i)] : `anomaly ${data.anomaly[i].toFixed(3)}`;
    const [x, y] = toScreen(i), w = tip.offsetWidth, h = tip.offsetHeight;
    const left = x + 18 + w > width ? x - 18 - w : x + 18;
    tip.style.transform = `translate(${Math.max(6, Math.min(left, width - w - 6))}px, ${Math.max(6, Math.min(y - h / 2, height - h - 6))}px)`;
  }
  // Where the panel stands beside the map, the tip would only cover the neighbors of what was chosen.
  const tipFor = () => hovered >= 0 ? hovered : matchMedia("(max-width: 860px)").matches ? chosen : -1;
  const element = (name, text, kind = "") => Object.assign(document.createElement(name), { textContent: text, className: kind });
  function describe() {
    const box = $("chosen");
    if (chosen < 0) { box.replaceChildren(element("p", "Click or tap an image to see it here, with the most similar images.", "hint")); $("said").textContent = ""; return; }
    const list = document.createElement("dl");
    const row = (name, value) => { const div = document.createElement("div"); div.append(element("dt", name), element("dd", value)); list.append(div); };
    for (const c of data.colorings) {
      if (c.of[chosen] < 0) continue;
      const sure = c.key === "predicted" && data.probability ? ` (${(data.probability[chosen] * 100).toFixed(1)} %)` : "";
      row(c.title, c.names[c.of[chosen]] + sure);
    }
    row("anomaly score", `${data.anomaly[chosen].toFixed(3)}, rank ${rank[chosen].toLocaleString("en")} of ${total.toLocaleString("en")}`);
    const heading = document.createElement("h2"), near = document.createElement("ul");
    heading.append(...breakable(data.files[chosen]));
    for (const [who, cosine] of data.neighbors[chosen]) {
      const item = document.createElement("li"), on = typeof who === "number";
      const line = document.createElement(on ? "button" : "div");
      line.append(on ? pictureOf(who, 80) : document.createElement("i"), element("span", on ? data.files[who] : who), element("small", cosine.toFixed(3)));
      if (on) { line.type = "button"; line.addEventListener("click", () => choose(who, true)); }
      line.title = on ? data.files[who] : `${who} is not on this map`;
      item.append(line); near.append(item);
    }
    box.replaceChildren(pictureOf(chosen, 256, "picture"), heading, list, element("h3", "Nearest neighbors and their cosine"), near);
    $("said").textContent = `${data.files[chosen]}: ${description(chosen)}`;
  }
  function choose(i, move = false) {
    chosen = i; hovered = -1;
    if (i >= 0 && move) {
      const [x, y] = toScreen(i), margin = 50;
      if (x < margin || y < margin || x > width - margin || y > height - margin) { view.x = px(i); view.y = py(i); }
    }
    describe(); showTip(tipFor()); redraw();
  }
  function zoomAt(factor, x = width / 2, y = height / 2) {
    const zoom = Math.min(MOST_ZOOM, Math.max(1, view.zoom * factor)), k = base();
    // What is under the pointer stays there.
    view.x += (x - width / 2) / k * (1 / view.zoom - 1 / zoom);
    view.y += (y - height / 2) / k * (1 / view.zoom - 1 / zoom);
    view.zoom = zoom;
    moved();
  }
  function moved() {
    if (view.zoom === 1) { view.x = view.y = 0.5; }
    view.x = Math.min(1.2, Math.max(-0.2, view.x)); view.y = Math.min(1.2, Math.max(-0.2, view.y));
    // One finger scrolls the page until there is something to move.
    board.style.touchAction = view.zoom > 1 ? "none" : "pan-y";
    showTip(tipFor()); redraw();
  }
  const whole = () => { view = { x: 0.5, y: 0.5, zoom: 1 }; moved(); };

  const fingers = new Map();
  let traveled = 0, apart = 0;
  const place = (event) => { const box = board.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  board.addEventListener("pointerdown", (event) => {
    fingers.set(event.pointerId, place(event)); traveled = 0; apart = 0;
    board.setPointerCapture(event.pointerId);
  });
  board.addEventListener("pointermove", (event) => {
    const [x, y] = place(event), before = fingers.get(event.pointerId);
    if (!before) {
      const near = at(x, y, view.zoom > 1.4 ? 24 : 14);
      if (near !== hovered) { hovered = near; showTip(tipFor()); redraw(); }
      return;
    }
    fingers.set(event.pointerId, [x, y]);
    traveled += Math.hypot(x - before[0], y - before[1]);
    if (fingers.size === 2) {
      const [[a, b], [c, d]] = [...fingers.values()], gap = Math.hypot(a - c, b - d);
      if (apart) zoomAt(gap / apart, (a + c) / 2, (b + d) / 2);
      apart = gap;
    } else if (view.zoom > 1 && traveled > 4) {
      view.x -= (x - before[0]) / (base() * view.zoom); view.y -= (y - before[1]) / (base() * view.zoom);
      moved();
    }
  });
  const lifted = (event) => {
    if (event.type === "pointerup" && fingers.size === 1 && traveled < 8) choose(at(...place(event), event.pointerType === "touch" ? 30 : 16));
    fingers.delete(event.pointerId); apart = 0;
  };
  board.addEventListener("pointerup", lifted);
  board.addEventListener("pointercancel", lifted);
  board.addEventListener("pointerleave", () => { if (hovered >= 0) { hovered = -1; showTip(tipFor()); redraw(); } });
  board.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoomAt(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0016)), ...place(event));
  }, { passive: false });
  board.addEventListener("dblclick", (event) => zoomAt(2, ...place(event)));

  function step(dx, dy) {
    if (chosen < 0) return choose(at(width / 2, height / 2, Infinity), true);
    const [x, y] = toScreen(chosen);
    let best = -1, least = Infinity;
    for (let i = 0; i < total; i++) {
      if (i === chosen || faded(i)) continue;
      const [a, b] = toScreen(i), along = (a - x) * dx + (b - y) * dy, aside = Math.abs((a - x) * dy - (b - y) * dx);
      if (along <= 0.01 || aside > along * 1.5) continue;
      const d = along + 2 * aside;
      if (d < least) { least = d; best = i; }
    }
    if (best >= 0) choose(best, true);
  }
  const KEYS = {
    ArrowLeft: () => step(-1, 0), ArrowRight: () => step(1, 0), ArrowUp: () => step(0, -1), ArrowDown: () => step(0, 1),
    "+": () => zoomKey(1.5), "=": () => zoomKey(1.5), "-": () => zoomKey(1 / 1.5), 0: whole, Escape: () => choose(-1),
  };
  const zoomKey = (factor) => chosen >= 0 ? zoomAt(factor, ...toScreen(chosen)) : zoomAt(factor);
  board.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !KEYS[event.key]) return;
    event.preventDefault(); KEYS[event.key]();
  });
  $("in").addEventListener("click", () => zoomAt(1.6));
  $("out").addEventListener("click", () => zoomAt(1 / 1.6));
  $("whole").addEventListener("click", whole);

  function legend() {
    const box = $("legend");
    if (by < 0) {
      const ramp = document.createElement("canvas");
      ramp.width = 200; ramp.height = 1; ramp.className = "ramp";
      for (let k = 0; k < 200; k++) { const p = ramp.getContext("2d"); p.fillStyle = heat(k / 199); p.fillRect(k, 0, 1, 1); }
      const ends = element("div", "", "ends");
      ends.append(element("span", `${least.toFixed(3)} like others`), element("span", most > high ? `${high.toFixed(3)} and above` : most.toFixed(3)));
      return box.replaceChildren(ramp, ends);
    }
    const { names, of } = data.colorings[by], counts = names.map(() => 0);
    let none = 0;
    for (const g of of) { if (g < 0) none += 1; else counts[g] += 1; }
    const entries = names.map((name, g) => [name, g, counts[g]]);
    if (none) entries.push(["none", -1, none]);
    box.replaceChildren(...entries.map(([name, g, count]) => {
      const button = document.createElement("button"), mark = document.createElement("canvas");
      button.type = "button"; button.title = name;
      button.setAttribute("aria-pressed", only.has(g));
      mark.width = mark.height = 28;
      const p = mark.getContext("2d");
      shape(p, g < 0 ? 0 : Math.floor(g / LIGHT.length) % SHAPES, 14, 14, 10);
      p.fillStyle = colorOf(g); p.fill();
      button.append(mark, element("span", name), element("small", count.toLocaleString("en")));
      button.addEventListener("click", () => {
        if (!only.delete(g)) only.add(g);
        if (only.size === entries.length) only.clear();
        [...box.children].forEach((other, k) => other.setAttribute("aria-pressed", only.has(entries[k][1])));
        redraw();
      });
      return button;
    }));
  }
  $("color").addEventListener("change", (event) => { by = Number(event.target.value); only.clear(); legend(); showTip(tipFor()); redraw(); });

  const search = $("search");
  search.addEventListener("input", () => {
    const text = search.value.trim().toLowerCase();
    found = text ? new Set(data.files.flatMap((name, i) => name.toLowerCase().includes(text) ? [i] : [])) : null;
    $("matches").textContent = found ? `${found.size.toLocaleString("en")} of ${total.toLocaleString("en")}` : "";
    redraw();
  });
  search.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !found || !found.size) return;
    const all = [...found];
    choose(all[(all.indexOf(chosen) + 1) % all.length], true);
  });

  function fit() {
    const box = board.getBoundingClientRect();
    ratio = devicePixelRatio || 1; width = box.width; height = box.height;
    board.width = Math.round(width * ratio); board.height = Math.round(height * ratio);
    moved();
  }
  const themed = () => { legend(); redraw(); };
  new MutationObserver(themed).observe(document.documentElement, { attributes: true, attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", themed);
  sprite.decode().then(() => {
    for (const entry of document.querySelectorAll("[data-image]")) {
      picture(entry.querySelector("canvas"), Number(entry.dataset.image));
      entry.addEventListener("click", () => {
        choose(Number(entry.dataset.image), true);
        stage.scrollIntoView({ block: "center" });
      });
    }
    new ResizeObserver(fit).observe(stage);
    legend(); fit(); describe();
  });
}
