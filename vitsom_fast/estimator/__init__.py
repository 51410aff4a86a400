"""What ``vitsom_fast.SOM`` is made of: where rows come from (``rows``, ``read_ahead``, ``dask_rows``), how they are seen
(``frame``), what is added up over all of them (``moments``, ``epoch``), on one machine or many (``ranks``), and files
(``files``).

Whatever is to be known of all rows is a ``Work``: totals that chunks of rows are added to. Chunks may be on a disk, on other
machines or in a Dask graph; totals of K x D numbers are all that is kept of them, or sent.
"""
