/*
 * Makes one file of what is shown. Clips keep playing in it: each becomes a box whose background is its film strip, moved by
 * the style sheet alone, so that the file needs no script and asks nobody for anything.
 */

/** The attribute that becomes `src` in the file. */
const laterSource = 'data-later-src';

/** Downloads the view as one HTML page. */
export async function exportHtml(): Promise<void> {
  const { html } = await exportedPage('moving');
  download(new Blob([html], { type: 'text/html' }), 'html');
}

/** Downloads the view as one picture. */
export async function exportPicture(): Promise<void> {
  const view = document.querySelector<HTMLElement>('#view');
  if (view === null) throw new Error('there is no view to export');
  const { css, body } = await exportedPage('still');
  const width = view.clientWidth;
  const height = Math.min(view.scrollHeight, 12_000);
  const holder = document.createElement('div');
  holder.innerHTML = body;
  const markup = new XMLSerializer().serializeToString(holder);
  const background = getComputedStyle(document.body).backgroundColor;
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}"><foreignObject width="100%" height="100%"><html xmlns="http://www.w3.org/1999/xhtml" data-theme="${document.documentElement.dataset['theme'] ?? ''}"><head><style>${escapeXml(css)}</style></head><body>${markup}</body></html></foreignObject></svg>`;
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
  try {
    await image.decode();
  } catch (error) {
    throw new Error('this browser does not draw the view as a picture; export the page instead', {
      cause: error,
    });
  }
  const canvas = document.createElement('canvas');
  const scale = Math.min(2, Math.max(1, devicePixelRatio));
  canvas.width = width * scale;
  canvas.height = height * scale;
  const context = canvas.getContext('2d');
  if (context === null) throw new Error('this browser gives no canvas; export the page instead');
  context.scale(scale, scale);
  context.fillStyle = background;
  context.fillRect(0, 0, width, height);
  context.drawImage(image, 0, 0);
  const blob = await new Promise<Blob | null>((resolve) => canvas.toBlob(resolve, 'image/png'));
  if (blob === null) {
    throw new Error(
      `a picture of ${canvas.width} × ${canvas.height} pixels is too large; export the page instead`,
    );
  }
  download(blob, 'png');
}

async function exportedPage(clips: 'moving' | 'still'): Promise<{ html: string; css: string; body: string }> {
  const view = document.querySelector<HTMLElement>('#view');
  if (view === null) throw new Error('there is no view to export');
  const copy = view.cloneNode(true) as HTMLElement;
  copy.removeAttribute('id');
  const rules: string[] = [];
  await replaceClips(view, copy, clips, rules);
  copyFields(view, copy);
  for (const element of copy.querySelectorAll('button.quiet, .close, .scrubber, .more, form button'))
    element.remove();
  for (const link of copy.querySelectorAll('a')) link.removeAttribute('href');
  const css = `${[...document.styleSheets].flatMap((sheet) => [...sheet.cssRules].map(({ cssText }) => cssText)).join('\n')}\n${rules.join('\n')}`;
  const body = `<main class="exported">${copy.innerHTML.replaceAll(` ${laterSource}="`, ' src="')}<p class="soft">Exported from Plumb on ${new Date().toISOString().slice(0, 16).replace('T', ' ')} UTC</p></main>`;
  const policy =
    "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";
  const html = `<!doctype html>
<html lang="en" data-theme="${document.documentElement.dataset['theme'] ?? ''}">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="${policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>${document.title.replaceAll(/[<&]/g, (sign) => (sign === '<' ? '&lt;' : '&amp;'))}</title>
<style>${css.replaceAll('</', '<\\/')}</style>
</head>
<body>${body}</body>
</html>
`;
  return { html, css, body };
}

/** Canvases hold nothing when they are cloned, and pictures are somewhere else. */
async function replaceClips(
  view: HTMLElement,
  copy: HTMLElement,
  clips: 'moving' | 'still',
  rules: string[],
): Promise<void> {
  const shown = [...view.querySelectorAll('canvas')];
  const copies = [...copy.querySelectorAll('canvas')];
  const strips = new Map<string, string>();
  for (const [index, canvas] of shown.entries()) {
    const target = copies[index];
    if (target === undefined) continue;
    const box = document.createElement(
      clips === 'moving' && canvas.dataset['strip'] !== undefined ? 'div' : 'img',
    );
    for (const { name, value } of target.attributes) {
      if (!['width', 'height', 'tabindex'].includes(name) && !name.startsWith('data-'))
        box.setAttribute(name, value);
    }
    if (box instanceof HTMLImageElement) {
      box.src = canvas.toDataURL();
      box.alt = target.getAttribute('aria-label') ?? '';
      box.setAttribute('role', 'img');
    } else {
      const url = canvas.dataset['strip'] ?? '';
      const frames = Number(canvas.dataset['frames'] ?? 1);
      const fps = Number(canvas.dataset['fps'] ?? 8);
      const name = strips.get(url) ?? `strip-${strips.size}`;
      if (!strips.has(url)) {
        strips.set(url, name);
        rules.push(
          `.${name} { background: url("${await dataUrl(url)}") 0 0 / 100% ${frames * 100}%; image-rendering: pixelated; aspect-ratio: ${canvas.width} / ${canvas.height}; animation: ${name} ${frames / fps}s steps(${frames}, jump-none) infinite; }`,
          `@keyframes ${name} { from { background-position: 0 0%; } to { background-position: 0 100%; } }`,
        );
      }
      box.classList.add(name);
    }
    target.replaceWith(box);
  }
  const playing = [...view.querySelectorAll('video')];
  for (const [index, video] of [...copy.querySelectorAll('video')].entries()) {
    const original = playing[index];
    if (original === undefined) continue;
    video.replaceWith(clips === 'moving' ? await inlineVideo(original) : stillOf(original));
  }
  for (const image of copy.querySelectorAll<HTMLImageElement>('img[src^="/"]')) {
    image.src = await dataUrl(image.getAttribute('src') ?? '');
  }
}

/**
 * A video with its bytes in it, which the browser plays by itself. The source gets its name in the file only: here this
 * page's own policy would refuse it.
 */
async function inlineVideo(original: HTMLVideoElement): Promise<HTMLVideoElement> {
  const video = document.createElement('video');
  video.className = original.className;
  video.setAttribute('aria-label', original.getAttribute('aria-label') ?? '');
  for (const flag of ['autoplay', 'loop', 'muted', 'playsinline', 'controls']) video.setAttribute(flag, '');
  video.setAttribute(laterSource, await dataUrl(original.dataset['source'] ?? original.currentSrc));
  return video;
}

function stillOf(original: HTMLVideoElement): HTMLImageElement {
  const canvas = document.createElement('canvas');
  canvas.width = original.videoWidth;
  canvas.height = original.videoHeight;
  canvas.getContext('2d')?.drawImage(original, 0, 0);
  const image = document.createElement('img');
  image.className = original.className;
  image.alt = original.getAttribute('aria-label') ?? '';
  image.src = canvas.toDataURL();
  return image;
}

/** What somebody has chosen is a property and no attribute, and so is not cloned. */
function copyFields(view: HTMLElement, copy: HTMLElement): void {
  const fields = [...copy.querySelectorAll<HTMLInputElement | HTMLSelectElement>('input, select')];
  for (const [index, field] of [
    ...view.querySelectorAll<HTMLInputElement | HTMLSelectElement>('input, select'),
  ].entries()) {
    const target = fields[index];
    if (target instanceof HTMLSelectElement) {
      for (const option of target.options) option.toggleAttribute('selected', option.value === field.value);
    } else target?.setAttribute('value', field.type === 'password' ? '' : field.value);
    target?.setAttribute('disabled', '');
  }
}

async function dataUrl(url: string): Promise<string> {
  const response = await fetch(url);
  if (!response.ok) {
    throw new Error(`a clip cannot be had (${response.status}): ${(await response.text()).trim()}`);
  }
  const blob = await response.blob();
  const reader = new FileReader();
  const read = new Promise<void>((resolve, reject) => {
    reader.addEventListener('load', () => resolve());
    reader.addEventListener('error', () => reject(reader.error ?? new Error(`${url} cannot be read`)));
  });
  reader.readAsDataURL(blob);
  await read;
  return typeof reader.result === 'string' ? reader.result : '';
}

function escapeXml(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
}

function download(blob: Blob, extension: string): void {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = `${document.title.replaceAll(/[^\w-]+/g, '-').toLowerCase()}.${extension}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
