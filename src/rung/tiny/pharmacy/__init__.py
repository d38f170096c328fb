"""Generated task: rewrite a prescriber's shorthand as a dosing instruction for the patient. Not for medical use."""
