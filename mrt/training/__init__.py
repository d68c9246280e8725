"""What all trainers share: the life cycle mixin, atomic checkpoints, exact resume, the finite guard."""
