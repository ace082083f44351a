"""One question about one video, explained: what was kept, what it cost, and why the answer came out.

``pipelines.explanation`` collects an :class:`~streamprune.report.explain.data.Explanation`; here it becomes a
page, a picture, a film, or JSON.
"""
