"""A comparison as one self-contained page, for people: what is better in words first, then everything behind it.

    write(material, file)                   the page
    write(material, file, figures=folder)   and every chart as PNG and CSV, for papers

The page needs no network and no other file. All text in it that models or people wrote is escaped by the template, or
packed so that nothing can read it as markup; and a policy in the page lets no script run but its own.
"""

from align.evals.report.material import Material, comparisons, of_artifact, of_folder, of_inputs
from align.evals.report.page import refresh, write

__all__ = ["Material", "comparisons", "of_artifact", "of_folder", "of_inputs", "refresh", "write"]
