/** The metronome: does something again and again, one at a time, and not while nobody looks. */

/** Begins it; what comes back ends it. The work may say how long to wait instead. */
export function every(ms: number, work: () => Promise<number | void>): () => void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  let busy = false;
  let ended = false;
  async function beat() {
    clearTimeout(timer);
    if (busy || ended || document.hidden) return;
    busy = true;
    const next = await work().catch((error) => console.error(error));
    busy = false;
    if (!ended) timer = setTimeout(beat, next ?? ms);
  }
  document.addEventListener("visibilitychange", beat);
  void beat();
  return () => {
    ended = true;
    clearTimeout(timer);
    document.removeEventListener("visibilitychange", beat);
  };
}
