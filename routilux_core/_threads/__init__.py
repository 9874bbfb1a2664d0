"""What knows of threads and of nothing else: calls at a later time and aside, waits, who is inside, what each made."""
