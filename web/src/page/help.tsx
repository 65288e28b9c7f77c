import { useEffect, useRef } from 'preact/hooks';

const keys: readonly (readonly [string, string])[] = [
  ['g', 'All runs'],
  ['s', 'Studies'],
  ['t', 'Light, dark, or as the system says'],
  ['←  →  ↑  ↓', 'Move between clips'],
  ['Enter', 'Open a clip'],
  ['Esc', 'Close it'],
  ['space', 'Play or stop'],
  [',  .', 'One frame back or forward'],
  ['/', 'Search in prompts'],
  ['?', 'This list'],
];

/** What the keys do. */
export function Help({ close }: { readonly close: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => dialog.current?.showModal(), []);
  return (
    <dialog class="help" ref={dialog} onClose={close} aria-label="Keys">
      <h2>Keys</h2>
      <dl>
        {keys.map(([key, what]) => (
          <div key={key}>
            <dt>
              <kbd>{key}</kbd>
            </dt>
            <dd>{what}</dd>
          </div>
        ))}
      </dl>
      <form method="dialog">
        <button type="submit" class="primary">
          Close
        </button>
      </form>
    </dialog>
  );
}
