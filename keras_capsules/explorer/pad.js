// A drawing pad: black ink on white paper. Its value is the picture, as an
// address that holds its data, or nothing. Gradio hands in `element`, `props`,
// `trigger` and `watch`.
const canvas = element.querySelector("canvas");
const pen = canvas.getContext("2d");
let last = null; // where the pen is, while it is down
let sent = 0; // when

function show() {
  pen.fillStyle = "white";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  if (!props.value) return;
  const image = new Image();
  image.onload = () => pen.drawImage(image, 0, 0, canvas.width, canvas.height);
  image.src = props.value;
}

function draw(event) {
  const box = canvas.getBoundingClientRect();
  const x = ((event.clientX - box.left) / box.width) * canvas.width;
  const y = ((event.clientY - box.top) / box.height) * canvas.height;
  pen.lineWidth = canvas.width / 12;
  pen.lineCap = "round";
  pen.beginPath();
  pen.moveTo(...(last || [x, y]));
  pen.lineTo(x, y);
  pen.stroke();
  last = [x, y];
}

function send() {
  sent = Date.now();
  props.value = canvas.toDataURL();
  trigger("input");
}

canvas.addEventListener("pointerdown", (event) => {
  if (event.button || !event.isPrimary) return;
  canvas.setPointerCapture(event.pointerId);
  sent = Date.now(); // a short stroke is sent once, at its end
  draw(event);
});
canvas.addEventListener("pointermove", (event) => {
  if (!last || !event.isPrimary) return;
  draw(event);
  if (Date.now() - sent > 150) send();
});
for (const name of ["pointerup", "pointercancel"])
  canvas.addEventListener(name, (event) => {
    if (!last || !event.isPrimary) return;
    last = null;
    send();
  });
// A button cleared the pad, or put a picture on it.
watch("value", () => {
  show();
  trigger("input");
});
show();
