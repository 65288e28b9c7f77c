import { ErrorBoundary, lazy, LocationProvider, Route, Router, useLocation } from 'preact-iso';
import { signedOut } from './api.ts';
import { Shell } from './page/shell.tsx';
import { SignIn } from './page/sign-in.tsx';
import { RunList } from './runs/run-list.tsx';

const RunPage = lazy(async () => (await import('./runs/run-page.tsx')).RunPage);
const Gallery = lazy(async () => (await import('./gallery/gallery.tsx')).Gallery);
const Compare = lazy(async () => (await import('./gallery/compare.tsx')).Compare);
const Sessions = lazy(async () => (await import('./labels/sessions.tsx')).Sessions);
const StudyList = lazy(async () => (await import('./studies/study-list.tsx')).StudyList);
const StudyPage = lazy(async () => (await import('./studies/study-page.tsx')).StudyPage);
const AllDeadLetters = lazy(async () => (await import('./runs/dead-letters.tsx')).AllDeadLetters);
const RatePage = lazy(async () => (await import('./rate/rate-page.tsx')).RatePage);

/** The whole page: the rating view stands alone, everything else has the frame around it. */
export function App() {
  return (
    <LocationProvider>
      <Views />
    </LocationProvider>
  );
}

function Views() {
  const { path } = useLocation();
  if (path === '/rate') {
    return (
      <ErrorBoundary>
        <Router>
          <Route path="/rate" component={RatePage} />
          <Route default component={RatePage} />
        </Router>
      </ErrorBoundary>
    );
  }
  if (signedOut.value) return <SignIn />;
  return (
    <Shell>
      <ErrorBoundary>
        <Router>
          <Route path="/" component={RunList} />
          <Route path="/runs/:id" component={RunPage} />
          <Route path="/runs/:id/clips" component={Gallery} />
          <Route path="/runs/:id/compare" component={Compare} />
          <Route path="/runs/:id/labels" component={Sessions} />
          <Route path="/studies" component={StudyList} />
          <Route path="/studies/:name" component={StudyPage} />
          <Route path="/given-up" component={AllDeadLetters} />
          <Route default component={Nowhere} />
        </Router>
      </ErrorBoundary>
    </Shell>
  );
}

function Nowhere() {
  return (
    <section class="empty">
      <h1>There is nothing here</h1>
      <p>
        <a href="/">All runs</a>
      </p>
    </section>
  );
}
