import type { ComponentChildren } from 'preact';

/** What may be wider than the page, and is then moved by finger or arrow keys. */
export function Scroll(props: {
  /** For whoever hears the page. */
  readonly name: string;
  readonly children: ComponentChildren;
}) {
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={props.name}>
      {props.children}
    </div>
  );
}
