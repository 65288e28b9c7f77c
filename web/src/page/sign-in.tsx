import { useState } from 'preact/hooks';
import { signedOut } from '../api.ts';
import { keepToken } from '../token.ts';

/** Shown to whoever comes without a link that holds. */
export function SignIn() {
  const [text, setText] = useState('');
  const enter = (event: Event): void => {
    event.preventDefault();
    const token = /(?:#token=)?([\w.-]+)$/.exec(text.trim())?.[1];
    if (token === undefined) return;
    keepToken(token);
    signedOut.value = false;
  };
  return (
    <main class="sign-in">
      <h1>This page needs a link</h1>
      <p>
        <code>plumb up</code> prints one, and <code>plumb link</code> makes one for somebody else. A link that
        has expired is replaced in the same way.
      </p>
      <form onSubmit={enter}>
        <label>
          Link or token
          <input
            type="password"
            autocomplete="off"
            value={text}
            onInput={(event) => setText(event.currentTarget.value)}
          />
        </label>
        <button class="primary" type="submit">
          Enter
        </button>
      </form>
    </main>
  );
}
