"""Rules: what is done with messages that a topic filter and a condition pick, said in the configuration.

Kept true: a rule that fails is counted, and the message goes on as if the rule were not there.

``seen`` is a message as a rule sees it, ``condition`` and ``template`` what a rule says, ``config`` the rules, ``running`` one
at work, ``arrival`` what is changed before a message is stored, ``republish`` what is published once it is, ``trial`` the dry
run, ``plugin`` runs them.
"""

from plugins.rules.plugin import RulesPlugin

__all__ = ["RulesPlugin"]
