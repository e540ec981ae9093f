// A click on a tile plays its clip in a window of the page; without this script the link opens the file itself.
const links = [...document.querySelectorAll("a.watch")];
const player = document.querySelector("dialog.player");
const screen = player.querySelector("video");
const note = player.querySelector(".caption");
let current = 0;

const show = (index) => {
  current = (index + links.length) % links.length;
  const link = links[current];
  player.querySelector(".about").replaceChildren(link.closest("figure").querySelector("figcaption").cloneNode(true));
  note.textContent = "mute" in link.dataset ? "This clip has no audio." : "";
  screen.src = link.href;
  screen.play().catch(() => {});
};
links.forEach((link, index) => link.addEventListener("click", (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  player.showModal();
  show(index);
}));
screen.addEventListener("error", () => {
  if (screen.hasAttribute("src")) note.textContent = "The file of this clip is not beside the page, in its folder media.";
});
player.querySelector(".before").addEventListener("click", () => show(current - 1));
player.querySelector(".after").addEventListener("click", () => show(current + 1));
player.querySelector(".end").addEventListener("click", () => player.close());
player.addEventListener("click", (event) => { if (event.target === player) player.close(); });
player.addEventListener("keydown", (event) => {
  if (event.target === screen) return;
  if (event.key === "ArrowLeft") show(current - 1);
  if (event.key === "ArrowRight") show(current + 1);
});
player.addEventListener("close", () => {
  screen.pause();
  screen.removeAttribute("src");
  screen.load();
});
