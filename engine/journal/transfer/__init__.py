"""Copies of a whole journal from one backend to the other, for the move of an installation."""
