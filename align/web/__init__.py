"""The page on which people vote, write and talk.

    items     what is asked: a prompt and its replies, from records or a comparison
    votes     what was answered, and the log that keeps it
    desk      whose turn is what: a poll over fixed items, or a chat that makes them
    results   votes as Preference and Demonstration records, agreement, win rates
    app       the routes; serve: the socket

Only `app` and `serve` know that there is a browser.
"""
