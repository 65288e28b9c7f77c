import { useState } from 'preact/hooks';
import { errorText, isUnknownCaller, signedOut } from '../api.ts';
import { keepToken } from '../token.ts';
import { askCaller } from './caller.ts';

/** Shown to whoever comes without a link that holds. */
export function SignIn() {
  const [text, setText] = useState('');
  const [problem, setProblem] = useState('');
  const [asking, setAsking] = useState(false);
  const enter = async (event: Event): Promise<void> => {
    event.preventDefault();
    const token = /(?:#token=)?([\w.-]+)$/.exec(text.trim())?.[1];
    if (token === undefined) {
      setProblem('That is neither a link nor a token: a link ends with #token= and what follows it.');
      return;
    }
    setAsking(true);
    keepToken(token);
    try {
      await askCaller();
      signedOut.value = false;
    } catch (thrown) {
      setProblem(
        isUnknownCaller(thrown)
          ? 'This link does not hold: it has expired, is of another system, or is not whole.'
          : `This did not work: ${errorText(thrown)}`,
      );
    } finally {
      setAsking(false);
    }
  };
  return (
    <main class="sign-in">
      <h1>This page needs a link</h1>
      <p>
        <code>plumb up</code> prints one, and <code>plumb link</code> makes one for somebody else. A link that
        has expired is replaced in the same way.
      </p>
      {problem !== '' && (
        <p class="problem" role="alert">
          {problem}
        </p>
      )}
      <form onSubmit={(event) => void enter(event)}>
        <label>
          Link or token
          <input
            type="password"
            autocomplete="off"
            value={text}
            onInput={(event) => setText(event.currentTarget.value)}
          />
        </label>
        <button class="primary" type="submit" disabled={asking}>
          Enter
        </button>
      </form>
    </main>
  );
}
