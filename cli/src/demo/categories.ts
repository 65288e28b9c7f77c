import type { ReportCategory } from '../report/report-data.ts';

/** The categories of interaction (arXiv 2412.02617), in the paper's order. */
export const categories: readonly ReportCategory[] = [
  { id: 'OR', name: 'Object removal' },
  { id: 'MO', name: 'Multiple objects' },
  { id: 'DO', name: 'Deformable object' },
  { id: 'DM', name: 'Directional movement' },
  { id: 'FD', name: 'Falling down' },
];
