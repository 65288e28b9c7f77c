import type { ComponentChildren } from 'preact';
import { useLocation } from 'preact-iso';
import { useEffect, useRef, useState } from 'preact/hooks';
import { errorText, isUnknownCaller } from '../api.ts';
import { exportHtml, exportPicture } from './export-view.ts';
import { isTyping } from './keys.ts';
import { Help } from './help.tsx';
import { connection } from './live.ts';
import { askCaller } from './caller.ts';
import { nextTheme, theme } from './theme.ts';

/** The frame around every view: where one is, whether it is live, and what can be done with any view. */
export function Shell({ children }: { readonly children: ComponentChildren }) {
  const { route, path } = useLocation();
  const [problem, setProblem] = useState('');
  const [help, setHelp] = useState(false);
  useEffect(() => {
    const onKey = (event: KeyboardEvent): void => {
      if (isTyping(event)) return;
      if (event.key === '?') setHelp((shown) => !shown);
      else if (event.key === 'g') route('/');
      else if (event.key === 's') route('/studies');
      else if (event.key === 't') nextTheme();
    };
    addEventListener('keydown', onKey);
    return () => removeEventListener('keydown', onKey);
  }, [route]);
  useEffect(() => {
    askCaller().catch((thrown: unknown) => {
      // Whoever is unknown is shown the page that says so.
      if (!isUnknownCaller(thrown)) setProblem(errorText(thrown));
    });
  }, []);
  useEffect(() => setProblem(''), [path]);
  return (
    <>
      <a class="skip" href="#view">
        Skip to the content
      </a>
      <header class="bar">
        <a class="brand" href="/" aria-label="Plumb, all runs">
          <svg viewBox="0 0 32 32" width="22" height="22" aria-hidden="true">
            <path d="M16 1.5v14" stroke="currentColor" stroke-width="2.4" stroke-linecap="round" />
            <path d="M10 15h12l-1.2 6.4L16 30.5l-4.8-9.1z" fill="currentColor" />
          </svg>
          <span class="word">Plumb</span>
        </a>
        <nav class="places" aria-label="Pages">
          <a href="/" aria-current={path === '/' || path.startsWith('/runs') ? 'page' : undefined}>
            Runs
          </a>
          <a href="/studies" aria-current={path.startsWith('/studies') ? 'page' : undefined}>
            Studies
          </a>
        </nav>
        <span class={`stream ${connection.value}`} role="status">
          {{ live: 'Live', waiting: 'Connecting', idle: '' }[connection.value]}
        </span>
        <div class="tools">
          <Menu onProblem={setProblem} />
          <button
            type="button"
            class="quiet"
            onClick={nextTheme}
            title="Light, dark, or as the system says (t)"
          >
            {{ system: 'Auto', light: 'Light', dark: 'Dark' }[theme.value]}
          </button>
          <button type="button" class="quiet" onClick={() => setHelp(true)} aria-label="Keys (?)">
            ?
          </button>
        </div>
      </header>
      {problem !== '' && (
        <p class="problem notice" role="alert">
          {problem}
        </p>
      )}
      <main id="view" tabIndex={-1}>
        {children}
      </main>
      {help && <Help close={() => setHelp(false)} />}
    </>
  );
}

function Menu({ onProblem }: { readonly onProblem: (text: string) => void }) {
  const details = useRef<HTMLDetailsElement>(null);
  const [working, setWorking] = useState(false);
  const run = async (make: () => Promise<void>): Promise<void> => {
    if (details.current !== null) details.current.open = false;
    setWorking(true);
    onProblem('');
    try {
      await make();
    } catch (thrown) {
      onProblem(`Nothing was exported: ${thrown instanceof Error ? thrown.message : String(thrown)}`);
    } finally {
      setWorking(false);
    }
  };
  return (
    <details class="menu" ref={details}>
      <summary class="quiet">{working ? 'Exporting …' : 'Export'}</summary>
      <div>
        <button type="button" onClick={() => void run(exportHtml)}>
          Page (HTML, everything in one file)
        </button>
        <button type="button" onClick={() => void run(exportPicture)}>
          Picture (PNG)
        </button>
      </div>
    </details>
  );
}
