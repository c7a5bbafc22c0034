"""Who may do what: authentication at CONNECT, and access control of topics from then on.

Kept true: a user name counts only once a credential for it was verified; nothing is published, subscribed to or received that a
plugin denies; an answer that does not come in time is a denial.
"""
