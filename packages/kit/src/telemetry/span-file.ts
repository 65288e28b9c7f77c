import { mkdirSync } from 'node:fs';
import { appendFile, readdir, rename, stat, unlink } from 'node:fs/promises';
import { hostname } from 'node:os';
import path from 'node:path';
import { ExportResultCode } from '@opentelemetry/core';
import type { ExportResult } from '@opentelemetry/core';
import type { ReadableSpan, SpanExporter } from '@opentelemetry/sdk-trace-node';
import { toSpanRecord } from './span-record.ts';

/** Bounds of the local span files. */
export interface SpanFileLimits {
  /** A file that would grow beyond this is put aside and a new one begun. Bytes. */
  readonly maxFileBytes: number;
  /** All span files of one service together; the oldest are deleted. Bytes. */
  readonly maxTotalBytes: number;
}

const defaultLimits: SpanFileLimits = {
  maxFileBytes: 16 * 2 ** 20,
  maxTotalBytes: 64 * 2 ** 20, // about 100,000 spans
};

/**
 * Writes spans as JSON lines to `<directory>/<service>-<host>-<pid>.jsonl`, so that traces can be read where there is
 * no collector; pods have the same process ids, and may share a volume. Files are rotated and bounded; a write that fails loses its spans and nothing else.
 */
export class SpanFile implements SpanExporter {
  readonly directory: string;
  readonly service: string;
  readonly limits: SpanFileLimits;
  #bytes = 0;
  #rotations = 0;
  #writing: Promise<void> = Promise.resolve();

  constructor(directory: string, service: string, limits: Partial<SpanFileLimits> = {}) {
    mkdirSync(directory, { recursive: true });
    this.directory = directory;
    this.service = service;
    this.limits = { ...defaultLimits, ...limits };
  }

  /** The file that is being written. */
  get file(): string {
    return path.join(this.directory, `${this.#name}.jsonl`);
  }

  get #name(): string {
    return `${this.service}-${hostname()}-${process.pid}`;
  }

  export(spans: ReadableSpan[], done: (result: ExportResult) => void): void {
    const lines = spans.map((span) => `${JSON.stringify(toSpanRecord(span))}\n`).join('');
    this.#writing = this.#write(this.#writing, lines, done);
  }

  async shutdown(): Promise<void> {
    await this.#writing;
  }

  async forceFlush(): Promise<void> {
    await this.#writing;
  }

  /** One write after the other; never rejects. */
  async #write(previous: Promise<void>, lines: string, done: (result: ExportResult) => void): Promise<void> {
    await previous;
    try {
      await this.#append(lines);
    } catch (error) {
      const cause =
        error instanceof Error ? error : new Error('the span file cannot be written', { cause: error });
      done({ code: ExportResultCode.FAILED, error: cause });
      return;
    }
    done({ code: ExportResultCode.SUCCESS });
  }

  async #append(lines: string): Promise<void> {
    const length = Buffer.byteLength(lines);
    if (this.#bytes > 0 && this.#bytes + length > this.limits.maxFileBytes) {
      this.#rotations += 1;
      await rename(this.file, path.join(this.directory, `${this.#name}.${this.#rotations}.jsonl`));
      this.#bytes = 0;
    }
    if (this.#bytes === 0) await this.#prune();
    await appendFile(this.file, lines);
    this.#bytes += length;
  }

  /** Deletes the oldest files of this service until one more full file fits. */
  async #prune(): Promise<void> {
    const names = await readdir(this.directory);
    const files: { file: string; bytes: number; modifiedMs: number }[] = [];
    for (const name of names) {
      if (!name.startsWith(`${this.service}-`) || !name.endsWith('.jsonl')) continue;
      const file = path.join(this.directory, name);
      // Another process of the service may delete it meanwhile.
      const found = await stat(file).catch(() => undefined);
      if (found !== undefined) files.push({ file, bytes: found.size, modifiedMs: found.mtimeMs });
    }
    files.sort((a, b) => a.modifiedMs - b.modifiedMs);
    let total = files.reduce((sum, { bytes }) => sum + bytes, 0);
    for (const { file, bytes } of files) {
      if (total + this.limits.maxFileBytes <= this.limits.maxTotalBytes) break;
      await unlink(file).catch(() => undefined);
      total -= bytes;
    }
  }
}
