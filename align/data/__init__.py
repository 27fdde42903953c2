"""Data: from files and hubs to records, trees and batches."""
