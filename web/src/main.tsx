import { render } from 'preact';
import { App } from './app.tsx';
import { applyTheme } from './page/theme.ts';
import { takeToken } from './token.ts';

takeToken();
applyTheme();
const page = document.querySelector('#page');
if (page !== null) render(<App />, page);
