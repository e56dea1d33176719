// Labels images with the keyboard, remembers them in this browser, and saves them as labels.csv.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const find = (id) => document.getElementById(id);
  const KEYS = "123456789abcdefghijklmnopqrstuvwxyz";
  const place = `edgekit-labels-${data.key}`;
  const labels = new Map();
  const classes = [...data.classes];
  let at = 0;

  const remember = () => {
    try {
      localStorage.setItem(place, JSON.stringify({ classes, labels: [...labels] }));
    } catch { /* private windows keep nothing */ }
  };
  const recall = () => {
    try {
      const kept = JSON.parse(localStorage.getItem(place));
      for (const name of kept?.classes ?? []) if (!classes.includes(name)) classes.push(name);
      for (const [file, name] of kept?.labels ?? []) labels.set(file, name);
    } catch { /* nothing that can be read */ }
  };

  const buttons = data.images.map((image, i) => {
    const button = document.createElement("button");
    const picture = document.createElement("img");
    picture.src = image.picture;
    picture.alt = image.file;
    picture.loading = "lazy";
    button.type = "button";
    button.append(picture);
    button.addEventListener("click", () => show(i));
    find("all").append(button);
    return button;
  });

  const draw = () => {
    const image = data.images[at];
    const given = labels.get(image.file);
    find("picture").src = image.picture;
    find("picture").alt = image.file;
    find("picture").classList.toggle("small", image.small);
    find("name").textContent = image.file;
    find("given").textContent = given ?? "";
    find("classes").replaceChildren(...classes.map((name, i) => {
      const button = document.createElement("button");
      const key = document.createElement("kbd");
      const count = document.createElement("small");
      key.textContent = KEYS[i] ?? "";
      count.textContent = [...labels.values()].filter((other) => other === name).length;
      button.type = "button";
      button.setAttribute("aria-pressed", given === name);
      button.append(key, name, count);
      button.addEventListener("click", () => give(name));
      return button;
    }));
    buttons.forEach((button, i) => {
      const name = labels.get(data.images[i].file);
      button.classList.toggle("labeled", name !== undefined);
      button.setAttribute("aria-current", i === at);
      button.title = name ?? "no label";
    });
    const done = data.images.filter((one) => labels.has(one.file)).length;
    find("bar").value = done;
    find("count").textContent = `${done} of ${data.images.length} labeled`;
  };
  const show = (i) => {
    at = Math.max(0, Math.min(data.images.length - 1, i));
    draw();
  };
  const give = (name) => {
    labels.set(data.images[at].file, name);
    remember();
    const rest = [...data.images.keys()].map((i) => (at + 1 + i) % data.images.length);
    show(rest.find((i) => !labels.has(data.images[i].file)) ?? at);
  };
  const take = () => {
    labels.delete(data.images[at].file);
    remember();
    draw();
  };

  const cell = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  find("save").addEventListener("click", () => {
    const rows = [...Object.entries(data.labeled), ...data.images.filter((i) => labels.has(i.file)).map((i) => [i.file, labels.get(i.file)])];
    const text = ["file,class", ...rows.map((row) => row.map(cell).join(","))].join("\n") + "\n";
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
    link.download = "labels.csv";
    link.click();
    URL.revokeObjectURL(link.href);
  });
  find("new").addEventListener("submit", (event) => {
    event.preventDefault();
    const name = find("class").value.trim();
    if (!name) return;
    if (!classes.includes(name)) classes.push(name);
    find("class").value = "";
    find("class").blur();
    give(name);
  });
  find("back").addEventListener("click", () => show(at - 1));
  find("skip").addEventListener("click", () => show(at + 1));
  find("clear").addEventListener("click", take);
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.target === find("class")) {
      if (event.key === "Escape") find("class").blur();
      return;
    }
    const chosen = classes[KEYS.indexOf(event.key.toLowerCase())];
    if (event.key.length === 1 && chosen !== undefined) give(chosen);
    else if (event.key === "ArrowLeft") show(at - 1);
    else if (event.key === "ArrowRight") show(at + 1);
    else if (event.key === "Backspace" || event.key === "Delete") take();
    else if (event.key === "/") find("class").focus();
    else return;
    event.preventDefault();
  });
  recall();
  show(0);
})();
