"""Telling others what happens: signed webhooks for programs, commit statuses for forges.

    webhooks    an event as a CloudEvent, signed
    statuses    how a commit stands, as GitHub, GitLab, Gitea and Forgejo want to be told
    letters     which of the two a subscriber gets
    addresses   where nothing is sent
    courier     sends one message
    deliveries  sends each event to each subscriber, in order, until it is taken or given up
    registry    subscriptions made, listed, tried and removed by people

All of it reads the store. A run neither waits for nor knows of those who are told.
"""
