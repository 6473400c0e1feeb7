import { useState } from 'react';
import Pagination from '@cloudscape-design/components/pagination';

/** A table's rows, a page at a time (a browser stands still over thousands), and what turns the pages: null where there is one only. */
export function usePages<T>(items: T[], size: number, what: string) {
  const [wanted, setWanted] = useState(1);
  const count = Math.max(1, Math.ceil(items.length / size)), page = Math.min(wanted, count);
  const pagination = count === 1 ? null : <Pagination currentPageIndex={page} pagesCount={count} onChange={event => setWanted(event.detail.currentPageIndex)}
    ariaLabels={{ paginationLabel: `Pages of ${what}`, nextPageLabel: 'Next page', previousPageLabel: 'Previous page', pageLabel: number => `Page ${number} of ${count}` }} />;

  return { rows: items.slice((page - 1) * size, page * size), pagination };
}
