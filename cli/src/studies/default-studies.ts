/** Where studies keep what they have unless told otherwise. From the working folder. */
export const defaultStudies = '.plumb-studies';
