"""Systems that choose the tasks: made harder, evolved, or learned without any reward."""
