import { signal } from '@preact/signals';

/** How the page looks: as the system says, or one of the two. */
export type Theme = 'system' | 'light' | 'dark';

const themes: readonly Theme[] = ['system', 'light', 'dark'];
const storageKey = 'plumb.theme';

export const theme = signal<Theme>(
  themes.find((name) => name === localStorage.getItem(storageKey)) ?? 'system',
);

/** Puts the chosen look on the page. */
export function applyTheme(): void {
  document.documentElement.dataset['theme'] = theme.value;
}

/** Goes on to the next look. */
export function nextTheme(): void {
  theme.value = themes[(themes.indexOf(theme.value) + 1) % themes.length] ?? 'system';
  localStorage.setItem(storageKey, theme.value);
  applyTheme();
}
