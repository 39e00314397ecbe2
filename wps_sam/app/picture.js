// Of the drawing in `element`: names under the pointer, and clicks and boxes, which `trigger` tells to the page's
// Python as "mark". Coordinates are pixels of the picture.
let start = null;

function place(event) {
  const svg = element.querySelector("svg");
  const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
  const { width, height } = svg.viewBox.baseVal;
  return [Math.min(Math.max(point.x, 0), width), Math.min(Math.max(point.y, 0), height)];
}

function corners(event) {
  const [x, y] = place(event);
  const moved = Math.hypot(event.clientX - start.screen[0], event.clientY - start.screen[1]);
  const [from_x, from_y] = start.place;
  // A hand that trembles draws no box.
  if (moved < 6) return [from_x, from_y, from_x, from_y];
  return [Math.min(x, from_x), Math.min(y, from_y), Math.max(x, from_x), Math.max(y, from_y)];
}

function show_box([x0, y0, x1, y1]) {
  const box = element.querySelector(".drag");
  for (const [key, value] of Object.entries({ x: x0, y: y0, width: x1 - x0, height: y1 - y0 })) {
    box?.setAttribute(key, value);
  }
}

function show_name(event) {
  const tip = element.querySelector(".tip");
  if (!tip) return;
  const name = event.target.dataset?.name;
  tip.style.display = name && !start ? "block" : "none";
  if (!name) return;
  const frame = tip.parentElement.getBoundingClientRect();
  tip.textContent = name;
  tip.style.left = `${Math.min(event.clientX - frame.left + 14, frame.width - tip.offsetWidth)}px`;
  tip.style.top = `${event.clientY - frame.top + 18}px`;
}

element.addEventListener("pointerdown", (event) => {
  if (event.button !== 0 || !event.target.closest("svg")) return;
  start = { place: place(event), screen: [event.clientX, event.clientY] };
  element.setPointerCapture(event.pointerId);
  event.preventDefault();
});
element.addEventListener("pointermove", (event) => {
  show_name(event);
  if (start) show_box(corners(event));
});
element.addEventListener("pointerup", (event) => {
  if (!start) return;
  const [x0, y0, x1, y1] = corners(event);
  start = null;
  show_box([0, 0, 0, 0]);
  trigger("mark", { x0, y0, x1, y1 });
});
element.addEventListener("pointercancel", () => {
  start = null;
  show_box([0, 0, 0, 0]);
});
element.addEventListener("pointerleave", show_name);

// A photo may also be dropped where photos are shown.
element.addEventListener("dragover", (event) => event.preventDefault());
element.addEventListener("drop", (event) => {
  event.preventDefault();
  const input = document.querySelector("#photo input[type=file]");
  if (!input || !event.dataTransfer.files.length) return;
  input.files = event.dataTransfer.files;
  input.dispatchEvent(new Event("change", { bubbles: true }));
});
