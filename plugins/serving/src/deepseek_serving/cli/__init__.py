"""The verbs that this plugin adds to `deepseek`; each imports what it needs when it is called."""
