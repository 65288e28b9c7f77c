/** Borders of a cli-table3 table that has none: columns are set apart by spaces. */
export const plainBorders = {
  'top-mid': '',
  'bottom-mid': '',
  mid: '',
  'left-mid': '',
  'mid-mid': '',
  'right-mid': '',
  middle: '  ',
  top: '',
  'top-left': '',
  'top-right': '',
  bottom: '',
  'bottom-left': '',
  'bottom-right': '',
  left: ' ',
  right: '',
} as const;
