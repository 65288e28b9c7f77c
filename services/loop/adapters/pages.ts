import { invalidArgument } from '@plumb/kit/errors';
import { z } from 'zod';

/** Items of a page when the caller does not say. */
export const defaultPageSize = 50;
const largestPageSize = 1_000;

/** The size of a page: 1 to 1000, 0 is 50. Throws INVALID_ARGUMENT. */
export function pageSizeOf(requested: number): number {
  if (requested === 0) return defaultPageSize;
  if (requested < 0 || requested > largestPageSize) {
    throw invalidArgument(
      'page_size',
      `${requested} is out of range; use 1 to ${largestPageSize}, or 0 for ${defaultPageSize}`,
    );
  }
  return requested;
}

/** The last item of a page as an opaque token. */
export function pageToken(position: object): string {
  return Buffer.from(JSON.stringify(position)).toString('base64url');
}

/** What a token says; undefined for the first page. Throws INVALID_ARGUMENT for anything that is no token of this list. */
export function readPageToken<Position>(schema: z.ZodType<Position>, token: string): Position | undefined {
  if (token === '') return undefined;
  try {
    return schema.parse(JSON.parse(Buffer.from(token, 'base64url').toString('utf8')));
  } catch (error) {
    throw invalidArgument('page_token', 'is not a token of this list; begin again without one', {
      cause: error,
    });
  }
}

/** Splits the rows of a query that asked for one more than the page holds. */
export function pageOf<Row>(
  rows: readonly Row[],
  size: number,
  position: (row: Row) => object,
): { rows: readonly Row[]; nextPageToken: string } {
  const page = rows.slice(0, size);
  const last = page.at(-1);
  return {
    rows: page,
    nextPageToken: rows.length > size && last !== undefined ? pageToken(position(last)) : '',
  };
}

/** A place in a list that is ordered by time and id. */
export const timePosition = z.object({
  at: z.iso.datetime().transform((text) => new Date(text)),
  id: z.string(),
});
