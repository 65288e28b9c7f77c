/** What a caller may be allowed to do. `admin` may do everything. */
export const roles = ['score', 'read', 'label', 'rate', 'train', 'admin'] as const;

export type Role = (typeof roles)[number];

const known: ReadonlySet<string> = new Set(roles);

/** True for the name of a role. */
export function isRole(name: string): name is Role {
  return known.has(name);
}

/** Who calls, and what it may do. */
export interface Caller {
  /** Of the callers' file, or the subject of a JWT. */
  readonly name: string;
  readonly roles: ReadonlySet<Role>;
  /** The one label session that it may rate, under its own name; everything that its roles allow without it. */
  readonly session?: string | undefined;
  /** Own limits; those of the service without them. */
  readonly callsPerSecond?: number | undefined;
  readonly itemsPerHour?: number | undefined;
}
